"""Stored pictures as the vision tower takes them, in training's arithmetic."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .shapes import Levels

# Activations of the training passes. On processors with bfloat16 products a step takes a third of the time;
# weights, norms, the loss and the optimiser stay in float32.
ARITHMETIC = torch.bfloat16


def pixel_values(pixels: Levels) -> Tensor:
    """uint8[B, S, S, 3] -> bfloat16[B, 3, S, S] in [-1, 1]."""
    levels = torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2)  # an album's pixels are read-only
    return (levels.float() / 127.5 - 1).to(ARITHMETIC)
