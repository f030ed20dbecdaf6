"""A model on the meta device: parameter names and shapes without values."""

from __future__ import annotations

import torch

from .config import PaliGemmaConfig
from .paligemma import PaliGemma


def meta_model(config: PaliGemmaConfig) -> PaliGemma:
    """Return the model with every parameter on the meta device, where it takes no memory."""
    with torch.device("meta"):
        return PaliGemma(config).eval().requires_grad_(False).to("meta")
