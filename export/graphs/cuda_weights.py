"""What the graphs for a GPU read in place of the checkpoint's tensors: packed, in half precision.

Everything is made when it is written, from one tensor or three, so nothing of it has to be in memory.

Legend: A query heads, K key-value heads, H head width, D width, P positions of the context.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from paligemma_onnx.model.checkpoint.errors import CheckpointError
from paligemma_onnx.model.config import PaliGemmaConfig, TextConfig
from paligemma_onnx.model.gemma import DecoderLayer, Gemma, RMSNorm
from paligemma_onnx.model.linear import Linear
from paligemma_onnx.model.paligemma import PaliGemma
from paligemma_onnx.model.rotary import inverse_frequencies
from paligemma_onnx.model.skeleton import meta_model

from ..precisions import EMBEDDING_DTYPE
from ..sources.tensor_source import TensorSource

HEAD_WIDTH = 16  # GroupQueryAttention rotates multiples of this (onnxruntime); published heads are 256 wide
PACKED = "qkv_proj"  # query, key and value projections below each other, [(A + 2K) * H, D]
PARTS = ("q_proj", "k_proj", "v_proj")
GAIN = "gain"  # of an RMSNorm: the stored weight plus 1
COS, SIN = "language_model.cos", "language_model.sin"  # of every position, [P, H/2]


def cuda_meta_model(config: PaliGemmaConfig, dtype: torch.dtype) -> PaliGemma:
    """The model on the meta device as its graphs for a GPU read it: dtypes, packed projections, gains."""
    model, text = meta_model(config), config.text_config
    with torch.device("meta"):
        for layer in decoder_layers(model.language_model):
            attention = layer.self_attn
            heads = text.num_attention_heads + 2 * text.num_key_value_heads
            attention.add_module(PACKED, Linear(text.hidden_size, heads * text.head_dim, bias=False))
            for part in PARTS:
                delattr(attention, part)
        for module in model.modules():
            if isinstance(module, RMSNorm):
                module.register_parameter(GAIN, nn.Parameter(torch.empty_like(module.weight)))
                del module.weight
            elif isinstance(module, Linear):
                module.to(dtype)
        model.language_model.embed_tokens.to(getattr(torch, EMBEDDING_DTYPE))
        for name in (COS, SIN):
            table = torch.empty(text.max_position_embeddings, text.head_dim // 2, dtype=dtype)
            model.language_model.register_buffer(own_name(name), table)
    return model.requires_grad_(False)


def check_width(config: TextConfig) -> None:
    """Raise CheckpointError where heads are of a width that no kernel takes."""
    if config.head_dim % HEAD_WIDTH:
        raise CheckpointError(
            f"head_dim is {config.head_dim}, graphs for a GPU take multiples of {HEAD_WIDTH}; export as fp32"
        )


def rotations(config: TextConfig) -> dict[str, Tensor]:
    """Cosine and sine of every position's angles, float32[P, H/2] (arXiv 2104.09864, section 3.2.2)."""
    positions = torch.arange(config.max_position_embeddings, dtype=torch.float32)
    angles = positions[:, None] * inverse_frequencies(config.head_dim, config.rope_theta)
    return {COS: angles.cos(), SIN: angles.sin()}


class PackedCheckpoint:
    """A checkpoint's tensors, and tables of angles, under the names that `cuda_meta_model` has for them."""

    def __init__(self, source: TensorSource, config: TextConfig) -> None:
        self.source, self.config = source, config

    def tensor(self, name: str) -> Tensor:
        """One tensor: as the source has it, packed of three, a gain, or a table."""
        if name in (COS, SIN):
            return rotations(self.config)[name]
        module, _, kind = name.rpartition(".")
        if kind == GAIN:
            return 1.0 + self.source.tensor(f"{module}.weight").float()
        if module.endswith(f".{PACKED}"):
            parts = (module.removesuffix(PACKED) + part for part in PARTS)
            return torch.cat([self.source.tensor(f"{part}.{kind}") for part in parts])
        return self.source.tensor(name)


def decoder_layers(decoder: Gemma) -> list[DecoderLayer]:
    """In their order."""
    return [cast("DecoderLayer", layer) for layer in decoder.layers]


def own_name(name: str) -> str:
    """Without the module's."""
    return name.rpartition(".")[2]
