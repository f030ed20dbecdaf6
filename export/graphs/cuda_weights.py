"""Compute the tensors that only the CUDA graphs read: packed projections, norm gains, rotary tables.

A packed projection is computed from three tensors of the checkpoint, a gain from one tensor. Each result is
computed when it is written to the file, so only one result is in memory at a time.

Shapes: docs/notation.md.
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

# In onnxruntime, GroupQueryAttention rotates only heads whose width is a multiple of this number. The
# published models have heads of width 256.
HEAD_DIM_MULTIPLE = 16
PACKED = "qkv_proj"  # query, key and value projections concatenated, [(A + 2K) * H, D]
PARTS = ("q_proj", "k_proj", "v_proj")
GAIN = "gain"  # the gain of an RMSNorm: the stored weight plus 1
COS, SIN = "cos", "sin"  # buffers of the decoder: cosine and sine of every position, [X, H / 2]


def cuda_meta_model(config: PaliGemmaConfig, dtype: torch.dtype) -> PaliGemma:
    """Return a model on the meta device that has the tensors that the CUDA graphs read, in their dtypes."""
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
        for matrix in (model.language_model.embed_tokens, model.language_model.head):
            matrix.to(getattr(torch, EMBEDDING_DTYPE))
        for name in (COS, SIN):
            table = torch.empty(text.max_position_embeddings, text.head_dim // 2, dtype=dtype)
            model.language_model.register_buffer(name, table)
    return model.requires_grad_(False)


def check_head_dim(config: TextConfig) -> None:
    """Raise CheckpointError if no CUDA kernel supports the width of the attention heads."""
    if config.head_dim % HEAD_DIM_MULTIPLE:
        raise CheckpointError(
            f"head_dim is {config.head_dim}, but graphs for a GPU support only multiples of "
            f"{HEAD_DIM_MULTIPLE}; export as fp32"
        )


def compute_rotary_tables(config: TextConfig) -> dict[str, Tensor]:
    """Return cosines and sines of all positions, float32[X, H / 2] each (arXiv 2104.09864, section 3.2.2)."""
    positions = torch.arange(config.max_position_embeddings, dtype=torch.float32)
    angles = positions[:, None] * inverse_frequencies(config.head_dim, config.rope_theta)
    return {COS: angles.cos(), SIN: angles.sin()}


class PackedCheckpoint:
    """The tensors of `cuda_meta_model`, computed from a checkpoint, and the rotary tables."""

    def __init__(self, source: TensorSource, config: TextConfig) -> None:
        self.source, self.config = source, config

    def tensor(self, name: str) -> Tensor:
        """Return the tensor with a name of `cuda_meta_model`.

        The tensor is a rotary table, the gain of a norm, a packed projection, or a tensor of the source.
        """
        module, _, parameter = name.rpartition(".")
        if parameter in (COS, SIN):
            return compute_rotary_tables(self.config)[parameter]
        if parameter == GAIN:
            return 1.0 + self.source.tensor(f"{module}.weight").float()
        if module.endswith(f".{PACKED}"):
            parts = (module.removesuffix(PACKED) + part for part in PARTS)
            return torch.cat([self.source.tensor(f"{part}.{parameter}") for part in parts])
        return self.source.tensor(name)


def decoder_layers(decoder: Gemma) -> list[DecoderLayer]:
    """Return the layers of the decoder in order, typed as DecoderLayer."""
    return [cast("DecoderLayer", layer) for layer in decoder.layers]
