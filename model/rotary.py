"""Rotary position embedding: positions become angles, so that scores depend on distances.

Source: arXiv 2104.09864. Dimension i is paired with dimension i + H/2, as in the published weights; the paper
pairs neighbours. Positions count from 0 as in big_vision; transformers counts from 1. Both conventions give
the same model, because only differences of positions enter the scores.

Shapes: docs/notation.md.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Rotation(NamedTuple):
    """Cosine and sine of the angles of each token, float32[B, 1, L, H/2]; the axis of size 1 is for heads."""

    cos: Tensor
    sin: Tensor


def inverse_frequencies(head_dim: int, theta: float) -> Tensor:
    """Return theta ** (-2i / H) for i in [0, H/2), in radians per position (section 3.2.2): float32[H/2]."""
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu") / head_dim
    return 1.0 / theta**exponent


def compute_rotation(positions: Tensor, frequencies: Tensor) -> Rotation:
    """Return the cosine and sine of positions times frequencies, in float32 for every model.

    The positions are int64[B, L], the frequencies float32[H/2]. Angles grow with the position, so a narrower
    dtype could not distinguish neighbouring positions.
    """
    angles = positions[:, None, :, None].float() * frequencies
    return Rotation(angles.cos(), angles.sin())


class RotationAngles(nn.Module):
    """`compute_rotation` as a module, so that an export can replace it."""

    def forward(self, positions: Tensor, frequencies: Tensor) -> Rotation:
        """Return the cosine and sine of positions int64[B, L] times frequencies float32[H/2]."""
        return compute_rotation(positions, frequencies)


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotate pairs of dimensions by each token's angles (equation 34): [B, A, L, H] -> the same shape."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = rotation.cos.to(x.dtype), rotation.sin.to(x.dtype)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
