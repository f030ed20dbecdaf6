"""Drive the graphs of a layout with onnxruntime alone, as transformers.js and onnxruntime-genai do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

NAMES = {
    "transformers.js": ("onnx/vision_encoder", "onnx/embed_tokens", "onnx/decoder_model_merged"),
    "genai": ("vision", "embedding", "text"),
}


class EmbedsDriver:
    """Greedy generation with the three graphs of a layout."""

    def __init__(self, folder: Path, layout: str, suffix: str, image_token: int) -> None:
        paths = [folder / f"{name}{suffix}.onnx" for name in NAMES[layout]]
        self.vision, self.embedding, self.decoder = (ort.InferenceSession(path) for path in paths)
        self.merges_inside, self.image_token = layout == "genai", image_token

    def generate(
        self, ids: NDArray[np.int64], mask: NDArray[np.int64], pixels: NDArray[np.float32], steps: int
    ) -> list[list[int]]:
        """Return the ids that follow prompts int64[B, L], padded on the left."""
        (features,) = self.vision.run(None, {"pixel_values": pixels})
        features = features.reshape(-1, features.shape[-1])
        cache: dict[str, Any] = {
            spec.name: np.zeros((len(ids), spec.shape[1], 0, spec.shape[3]), np.float32)
            for spec in self.decoder.get_inputs()
            if spec.name.startswith("past_key_values.")
        }
        positions, chosen = np.maximum(mask.cumsum(axis=1), 1), []
        for _ in range(steps):
            feeds = {"inputs_embeds": self._embed(ids, features), "attention_mask": mask} | cache
            logits, *present = self.decoder.run(None, {**feeds, "position_ids": positions})
            assert logits.shape[1] == 1
            logits[:, :, self.image_token] = -np.inf  # never generated
            ids = logits[:, 0].argmax(axis=1)[:, None]
            chosen.append(ids)
            features, cache = features[:0], dict(zip(cache, present, strict=True))
            mask, positions = np.concatenate([mask, np.ones_like(ids)], axis=1), positions[:, -1:] + 1
            if not self.merges_inside:  # transformers.js forgets which tokens are padding, and counts them
                mask, positions = np.ones_like(mask), np.full_like(positions, mask.shape[1])
        return [list(map(int, row)) for row in np.concatenate(chosen, axis=1)]

    def _embed(self, ids: NDArray[np.int64], features: NDArray[np.float32]) -> NDArray[np.float32]:
        feeds: dict[str, Any] = {"input_ids": ids}
        if self.merges_inside:
            feeds["image_features"] = features
        embeds: NDArray[np.float32] = self.embedding.run(None, feeds)[0]
        if not self.merges_inside:
            embeds[ids == self.image_token] = features
        return embeds
