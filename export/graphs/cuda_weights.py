"""Describe and compute the tensors that the CUDA graphs read: packed weights and rotary tables.

Shapes: docs/notation.md.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paligemma_onnx.model.checkpoint.errors import CheckpointError
from paligemma_onnx.model.config import PaliGemmaConfig, TextConfig
from paligemma_onnx.model.linear import Linear
from paligemma_onnx.model.paligemma import PaliGemma
from paligemma_onnx.model.rotary import inverse_frequencies
from paligemma_onnx.model.skeleton import meta_model

from ..precisions import EMBEDDING_DTYPE
from ..sources.tensor_source import TensorSource
from .packed_weights import PackedCheckpoint, pack_decoder

# In onnxruntime, GroupQueryAttention rotates only heads whose width is a multiple of this number. The
# published models have heads of width 256.
HEAD_DIM_MULTIPLE = 16
COS, SIN = "cos", "sin"  # buffers of the decoder: cosine and sine of every position, [X, H / 2]


def cuda_meta_model(config: PaliGemmaConfig, dtype: torch.dtype) -> PaliGemma:
    """Return a model on the meta device that has the tensors that the CUDA graphs read, in their dtypes."""
    model, text = meta_model(config), config.text_config
    pack_decoder(model.language_model)
    for module in model.modules():
        if isinstance(module, Linear):
            module.to(dtype)
    for matrix in (model.language_model.embed_tokens, model.language_model.head):
        matrix.to(getattr(torch, EMBEDDING_DTYPE))
    for name in (COS, SIN):
        table = torch.empty(text.max_position_embeddings, text.head_dim // 2, dtype=dtype, device="meta")
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


class CudaCheckpoint:
    """The tensors of `cuda_meta_model`: packed tensors of a checkpoint, and the rotary tables."""

    def __init__(self, source: TensorSource, config: TextConfig) -> None:
        self.config, self.packed = config, PackedCheckpoint(source, config)

    def tensor(self, name: str) -> Tensor:
        """Return a rotary table, or a tensor of `PackedCheckpoint`."""
        parameter = name.rpartition(".")[2]
        if parameter in (COS, SIN):
            return compute_rotary_tables(self.config)[parameter]
        return self.packed.tensor(name)
