"""Write tensors of a Hugging Face checkpoint in the layout of big_vision's JAX checkpoints.

The mapping is written out by hand, as the inverse of transformers' conversion scripts
(convert_paligemma_weights_to_hf.py, convert_paligemma2_weights_to_hf.py). It shares no code with the reader.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from paligemma_onnx.model.checkpoint.tensor_names import LM_HEAD, canonical_name
from paligemma_onnx.model.config import PaliGemmaConfig
from paligemma_onnx.model.skeleton import meta_model
from training.published_layout import published_config

Array = NDArray[Any]
Arrays = dict[str, Array]


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint folder by canonical name, without a stored output head."""
    tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= {canonical_name(name): tensor for name, tensor in load_file(file).items()}
    tensors.pop(LM_HEAD, None)
    return tensors


def jax_arrays(tensors: Mapping[str, torch.Tensor], sizes: Mapping[str, Any]) -> Arrays:
    """Return the arrays of big_vision with stacked layers; bfloat16 becomes void of 2 bytes.

    Args:
        tensors: tensors by canonical name.
        sizes: content of config.json with all sizes written out.
    """
    text, vision = sizes["text_config"], sizes["vision_config"]
    heads, width = vision["num_attention_heads"], vision["hidden_size"]
    hidden, head_dim = text["hidden_size"], text["head_dim"]

    def get(name: str) -> Array:
        tensor = tensors[name]
        if tensor.dtype == torch.bfloat16:
            return tensor.view(torch.int16).numpy().view("V2")
        return tensor.numpy()

    def stack(prefix: str, name: str, layers: int) -> list[Array]:
        return [get(f"{prefix}.layers.{layer}.{name}") for layer in range(layers)]

    def tower(name: str) -> list[Array]:
        return stack("vision_tower.encoder", name, vision["num_hidden_layers"])

    def decoder(name: str) -> list[Array]:
        return stack("language_model", name, text["num_hidden_layers"])

    arrays = {
        "img/embedding/kernel": get("vision_tower.embeddings.patch_embedding.weight").transpose(2, 3, 1, 0),
        "img/embedding/bias": get("vision_tower.embeddings.patch_embedding.bias"),
        "img/pos_embedding": get("vision_tower.embeddings.position_embedding.weight")[None],
        "img/Transformer/encoder_norm/scale": get("vision_tower.post_layernorm.weight"),
        "img/Transformer/encoder_norm/bias": get("vision_tower.post_layernorm.bias"),
        "img/head/kernel": get("multi_modal_projector.linear.weight").T,
        "img/head/bias": get("multi_modal_projector.linear.bias"),
        "llm/embedder/input_embedding": get("language_model.embed_tokens.weight"),
        "llm/final_norm/scale": get("language_model.norm.weight"),
    }
    block = "img/Transformer/encoderblock"
    for number in "12":
        norm = f"{block}/LayerNorm_{int(number) - 1}"
        arrays[f"{norm}/scale"] = np.stack(tower(f"layer_norm{number}.weight"))
        arrays[f"{norm}/bias"] = np.stack(tower(f"layer_norm{number}.bias"))
        dense = f"{block}/MlpBlock_0/Dense_{int(number) - 1}"
        arrays[f"{dense}/kernel"] = np.stack([weight.T for weight in tower(f"mlp.fc{number}.weight")])
        arrays[f"{dense}/bias"] = np.stack(tower(f"mlp.fc{number}.bias"))
    attention = f"{block}/MultiHeadDotProductAttention_0"
    for letter, part in (("q", "query"), ("k", "key"), ("v", "value")):
        kernels = [weight.T.reshape(width, heads, -1) for weight in tower(f"self_attn.{letter}_proj.weight")]
        biases = [bias.reshape(heads, -1) for bias in tower(f"self_attn.{letter}_proj.bias")]
        arrays[f"{attention}/{part}/kernel"] = np.stack(kernels)
        arrays[f"{attention}/{part}/bias"] = np.stack(biases)
    kernels = [weight.T.reshape(heads, -1, width) for weight in tower("self_attn.out_proj.weight")]
    arrays[f"{attention}/out/kernel"] = np.stack(kernels)
    arrays[f"{attention}/out/bias"] = np.stack(tower("self_attn.out_proj.bias"))

    def einsum(letter: str) -> Array:  # [L, heads, D, H]
        weights = decoder(f"self_attn.{letter}_proj.weight")
        return np.stack([weight.reshape(-1, head_dim, hidden).swapaxes(1, 2) for weight in weights])

    attn = "llm/layers/attn"
    if text["num_attention_heads"] == text["num_key_value_heads"]:
        arrays[f"{attn}/qkv_einsum/w"] = np.stack([einsum("q"), einsum("k"), einsum("v")], axis=1)
    else:
        arrays[f"{attn}/q_einsum/w"] = einsum("q")
        arrays[f"{attn}/kv_einsum/w"] = np.stack([einsum("k"), einsum("v")], axis=1)
    outputs = [weight.T.reshape(-1, head_dim, hidden) for weight in decoder("self_attn.o_proj.weight")]
    arrays[f"{attn}/attn_vec_einsum/w"] = np.stack(outputs)
    gate, up = ([w.T for w in decoder(f"mlp.{part}_proj.weight")] for part in ("gate", "up"))
    arrays["llm/layers/mlp/gating_einsum"] = np.stack([np.stack(gate), np.stack(up)], axis=1)
    arrays["llm/layers/mlp/linear"] = np.stack([w.T for w in decoder("mlp.down_proj.weight")])
    norms = {"pre_attention_norm": "input_layernorm", "pre_ffw_norm": "post_attention_layernorm"}
    if text["model_type"] == "gemma2":
        norms["pre_ffw_norm"] = "pre_feedforward_layernorm"
        norms["post_attention_norm"] = "post_attention_layernorm"
        norms["post_ffw_norm"] = "post_feedforward_layernorm"
    for key, name in norms.items():
        arrays[f"llm/layers/{key}/scale"] = np.stack(decoder(f"{name}.weight"))
    return arrays


def random_arrays(config: PaliGemmaConfig) -> tuple[dict[str, torch.Tensor], Arrays]:
    """Return random tensors of a model by canonical name, and the arrays that hold them."""
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(weight.shape, generator=generator)
        for name, weight in meta_model(config).named_parameters()
    }
    return tensors, jax_arrays(tensors, published_config(config))


def unstack(arrays: Mapping[str, Array]) -> Arrays:
    """Return the arrays of a model whose layers are not stacked (`scan=False`)."""
    result = {}
    for key, array in arrays.items():
        for stacked, numbered in (
            ("img/Transformer/encoderblock/", "img/Transformer/encoderblock_{}/"),
            ("llm/layers/", "llm/layers/{}/"),
        ):
            if key.startswith(stacked):
                rest = key.removeprefix(stacked)
                result |= {numbered.format(layer) + rest: part for layer, part in enumerate(array)}
                break
        else:
            result[key] = array
    return result


def write_npz(path: Path, arrays: Mapping[str, Array], prefix: str = "params/") -> Path:
    """Write an archive as big_vision does: numpy.savez with the prefix before each key."""
    np.savez(path, **{prefix + key: np.ascontiguousarray(array) for key, array in arrays.items()})  # type: ignore[arg-type]
    return path
