"""Layers that may store their weights in a narrower dtype than the dtype of the computation.

Published checkpoints are bfloat16, but the reference implementation computes in float32. A layer casts a
weight when it uses the weight, not when the weight is loaded. The parameters can therefore stay memory-mapped
views of the file, and a 3B model that computes in float32 needs the memory of one float32 layer only. If the
stored dtype equals the dtype of the computation, the cast does nothing and adds no operator to an exported
graph.

Shapes: docs/notation.md.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Module):
    """Linear layer y = x W^T + b, computed in the dtype of x."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to the last axis: float[..., in] -> float[..., out]."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


def stream_weight(layer: Linear, load: Callable[[], Tensor]) -> None:
    """Make a layer load its weight at the start of each call and free it at the end.

    Args:
        layer: a layer whose weight is on the meta device.
        load: returns the weight, float[out, in].
    """
    placeholder = layer.weight

    def load_weight(layer: nn.Module, _inputs: object) -> None:
        layer.register_parameter("weight", nn.Parameter(load(), requires_grad=False))

    def free_weight(layer: nn.Module, _inputs: object, _output: object) -> None:
        layer.register_parameter("weight", placeholder)

    layer.register_forward_pre_hook(load_weight)
    layer.register_forward_hook(free_weight)


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis (arXiv 1607.06450, equation 4)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis: float[..., width] -> the same shape."""
        return F.layer_norm(x, x.shape[-1:], self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


class TiedEmbedding(nn.Module):
    """One matrix [V, D] that maps ids to vectors and, transposed, vectors to logits."""

    # Number of rows that are cast at once if the stored dtype differs from the dtype of the activations.
    # 16,384 rows of width 4,608 take 288 MiB in float32; the whole matrix would take 4.4 GiB.
    rows_at_once = 16_384

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, width))

    def forward(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the rows of the matrix with the given ids: int64[B, T] -> dtype[B, T, D]."""
        return F.embedding(ids, self.weight).to(dtype)

    def logits(self, x: Tensor) -> Tensor:
        """Return the products of x with every row of the matrix: float[B, D] -> float[B, V]."""
        if self.weight.dtype == x.dtype:
            return F.linear(x, self.weight)
        blocks = self.weight.split(self.rows_at_once)
        return torch.cat([F.linear(x, block.to(x.dtype)) for block in blocks], dim=-1)
