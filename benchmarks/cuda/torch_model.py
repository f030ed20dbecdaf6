"""Timing of the torch implementation in `model/`, for machines without transformers.

Shapes: docs/notation.md.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from paligemma_onnx.model.cache import Cache
from paligemma_onnx.model.checkpoint.load import load_model, open_checkpoint
from paligemma_onnx.model.config import PaliGemmaConfig

from ..torch_timing import TimedTorchModel

State = tuple[Cache, Tensor]  # the KV cache, and the number of slots that each row uses, int64[B]


class TorchModel(TimedTorchModel[State]):
    """The implementation in `model/`, whose cache grows by one slot per step."""

    def load(self, folder: Path, config: PaliGemmaConfig) -> None:
        """Load the checkpoint's weights to the device."""
        del config
        self.model = load_model(*open_checkpoint(folder)).to(self.device, self.dtype)

    def encode(self, pixels: Tensor) -> Tensor:
        """Encode images: [M, 3, S, S] -> features [M, I, D]."""
        return self.model.encode_image(pixels)

    def prefill(self, features: Tensor) -> tuple[Tensor, State]:
        """Read features [B, I, D] and the prompt; return the first ids, int64[B, 1], and the state."""
        prompt = torch.tensor(self.prompt, device=self.device).expand(len(features), -1)
        lengths = torch.full((len(features),), prompt.shape[1], device=self.device)
        logits, cache = self.model.prefill(prompt, features, lengths)
        return logits.argmax(dim=-1, keepdim=True), (cache, features.shape[1] + lengths)

    def step(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        """Read ids, int64[B, 1]; return the most likely next ids, int64[B, 1], and the state."""
        logits, cache = self.model.decode_step(ids, state[1], state[0])
        return logits.argmax(dim=-1, keepdim=True), (cache, state[1] + 1)
