"""Rotary position embedding: a position is an angle, so that scores depend on distance (arXiv 2104.09864).

Pairs are (i, i + H/2), the halves layout of the published weights, not neighbours as in the paper.
Positions count from 0 as in big_vision; transformers counts from 1. Only differences of positions reach
the scores, so both give the same model.

Legend: B batch, T tokens, A heads, H head width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Rotation(NamedTuple):
    """Cosine and sine of each token's angles, float32[B, 1, T, H/2]."""

    cos: Tensor
    sin: Tensor


def inverse_frequencies(head_dim: int, theta: float) -> Tensor:
    """theta ** (-2i / H) for i in [0, H/2), in radians a position (section 3.2.2) -> float32[H/2]."""
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu") / head_dim
    return 1.0 / theta**exponent


def compute_rotation(positions: Tensor, frequencies: Tensor) -> Rotation:
    """Angles of a sequence, float32 whatever the activations are: int64[B, T], float32[H/2] -> Rotation."""
    angles = positions[:, None, :, None].float() * frequencies
    return Rotation(angles.cos(), angles.sin())


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn each pair of x by its token's angle (equation 34): float[B, A, T, H] -> the same."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = rotation.cos.to(x.dtype), rotation.sin.to(x.dtype)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
