"""Configuration, generation defaults and processor of transformers for a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PaliGemmaConfig, PaliGemmaProcessor, PreTrainedTokenizerFast
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from paligemma_onnx.runtime.bundle.schema import Manifest
from paligemma_onnx.runtime.bundle.tensor_table import StoredTensor, read_tensor_table
from paligemma_onnx.runtime.text.special_tokens import BOS, EOS, IMAGE, PAD, UNK

from .bundle_folder import BundleFolder

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"


def load_config(folder: BundleFolder, manifest: Manifest) -> PaliGemmaConfig:
    """Return the model's configuration: from config.json if this file exists, else from the bundle.

    Settings that a bundle does not record, such as the epsilon of norms, have the values of the published
    checkpoints. The graphs contain the checkpoint's values.

    Raises:
        BundleError: the list of tensors is damaged.
    """
    if (folder.settings / CONFIG).is_file():
        return PaliGemmaConfig.from_pretrained(folder.settings, local_files_only=True)
    model, cache = manifest.model, manifest.cache
    graphs = read_tensor_table(folder.path, manifest).graphs
    vision = {tensor.name: tensor for tensor in graphs["vision_encoder"]}
    text = {tensor.name: tensor for tensor in graphs["prefill"]}
    patches = vision["vision_tower.embeddings.patch_embedding.weight"].shape  # [width, 3, side, side]
    first = "language_model.layers.0"
    queries = _outputs(text, f"{first}.self_attn.q_proj", model.hidden_size)
    if (
        queries is None
    ):  # graphs with a cache that is updated in place multiply queries, keys and values at once
        merged = _outputs(text, f"{first}.self_attn.qkv_proj", model.hidden_size) or 0
        queries = merged - 2 * cache.heads * cache.head_dim
    text_config: dict[str, Any] = {
        "model_type": "gemma" if model.family == "paligemma" else "gemma2",
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden_size,
        "intermediate_size": _outputs(text, f"{first}.mlp.gate_proj", model.hidden_size),
        "num_hidden_layers": cache.layers,
        "num_attention_heads": queries // cache.head_dim,
        "num_key_value_heads": cache.heads,
        "head_dim": cache.head_dim,
        "max_position_embeddings": model.context_length,
    }
    if model.family == "paligemma2":
        text_config["final_logit_softcapping"] = model.final_logit_softcapping
        text_config["sliding_window"] = model.sliding_window or model.context_length
    return PaliGemmaConfig(
        architectures=["PaliGemmaForConditionalGeneration"],
        text_config=text_config,
        vision_config={
            "model_type": "siglip_vision_model",
            "image_size": manifest.image.size,
            "patch_size": patches[-1],
            "hidden_size": patches[0],
            "intermediate_size": vision["vision_tower.encoder.layers.0.mlp.fc1.bias"].shape[0],
            "num_hidden_layers": len(
                {tensor.matrix.layer for tensor in vision.values() if tensor.matrix} - {None}
            ),
            "num_attention_heads": model.vision_heads,
            "vision_use_head": False,
        },
        image_token_index=manifest.tokens.image,
        projection_dim=model.hidden_size,
        hidden_size=model.hidden_size,
        vocab_size=model.vocab_size,
    )


def _outputs(tensors: dict[str, StoredTensor], layer: str, inputs: int) -> int | None:
    """Return the number of outputs of a linear layer, or None if the graph has no layer of this name.

    Matrices of blocks are stored as [outputs, blocks, bytes of a block], others as [inputs, outputs] or
    [outputs, inputs].
    """
    for name, tensor in tensors.items():
        if tensor.matrix is not None and name.startswith(f"{layer}.weight"):
            first, *others = tensor.shape
            return first if len(others) > 1 else first * others[0] // inputs
    return None


def load_generation_config(folder: Path, manifest: Manifest) -> GenerationConfig:
    """Return the defaults of generation: from generation_config.json if the folder has it, else the bundle's.

    Ids that a bundle never generates (`<image>` and untrained rows of the embedding) are suppressed.
    """
    if (folder / GENERATION_CONFIG).is_file():
        return GenerationConfig.from_pretrained(folder, local_files_only=True)
    tokens, defaults = manifest.tokens, manifest.generation
    sampling: dict[str, Any] = {}
    if defaults.temperature > 0:
        sampling = {"temperature": defaults.temperature, "top_k": defaults.top_k, "top_p": defaults.top_p}
    if defaults.repetition_penalty != 1:
        sampling["repetition_penalty"] = defaults.repetition_penalty
    return GenerationConfig(
        bos_token_id=tokens.bos,
        eos_token_id=list(tokens.stop),
        pad_token_id=tokens.pad,
        max_new_tokens=defaults.max_new_tokens,
        do_sample=defaults.temperature > 0,
        suppress_tokens=sorted({*tokens.suppressed, *defaults.suppress_tokens}),
        **sampling,
    )


def make_processor(folder: Path, manifest: Manifest) -> PaliGemmaProcessor:
    """Return a processor with the tokenizer and the image settings of a bundle.

    Its pixel values equal those of the runtime. Batches are padded on the left.
    """
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / manifest.tokens.file),
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNK,
        extra_special_tokens={"image_token": IMAGE},
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    facts = manifest.image
    images = SiglipImageProcessorPil(
        size={"height": facts.size, "width": facts.size},
        rescale_factor=facts.rescale_factor,
        image_mean=list(facts.mean),
        image_std=list(facts.std),
        image_seq_length=facts.tokens,
    )
    return PaliGemmaProcessor(images, tokenizer)
