"""Layers whose weights may be stored narrower than they are computed in.

A published checkpoint is bfloat16; the reference arithmetic here is float32. Casting a weight when it is
used, not when it is loaded, lets the parameters stay memory-mapped views of the file: a 3B model then
computes in float32 with the memory of one layer. Where both dtypes agree the cast is no operation at all,
so nothing of this appears in an exported graph.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Module):
    """y = x W^T + b, in the dtype of x."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """float[..., in_features] -> float[..., out_features]."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis (arXiv 1607.06450, equation 4)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """float[..., D] -> float[..., D]."""
        return F.layer_norm(x, x.shape[-1:], self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


class TiedEmbedding(nn.Module):
    """One table that turns ids into vectors and, read the other way, vectors into logits."""

    # Rows of the table cast at once when it is stored narrower than the activations: 16,384 rows of a
    # 4,608-wide table are 288 MiB in float32, the whole table would be 4.4 GiB.
    rows_at_once = 16_384

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, width))

    def forward(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """int64[B, T] -> dtype[B, T, D]."""
        return F.embedding(ids, self.weight).to(dtype)

    def logits(self, x: Tensor) -> Tensor:
        """float[B, D] -> float[B, V]."""
        if self.weight.dtype == x.dtype:
            return F.linear(x, self.weight)
        blocks = self.weight.split(self.rows_at_once)
        return torch.cat([F.linear(x, block.to(x.dtype)) for block in blocks], dim=-1)
