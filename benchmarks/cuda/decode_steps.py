"""Decode steps of a bundle, outside a request."""

from __future__ import annotations

from typing import Any

import numpy as np

from paligemma_onnx.runtime import Cancellation, PaliGemma

from ..metrics import PROMPT


def steps(model: PaliGemma, rows: int, count: int, slots: int) -> Any:
    """A request of so many rows that has begun, as a function that adds so many tokens to each.

    Its pictures are noise, its cache has so many slots, and it is never given back.
    """
    manifest, cancel = model.manifest, Cancellation()
    shape = rows, manifest.image.tokens, manifest.model.hidden_size
    features = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    prompt = np.tile(np.array(model.tokenizer.encode(PROMPT, shape[1]), dtype=np.int64), (rows, 1))
    lengths = np.full(rows, prompt.shape[1], dtype=np.int64)
    slots = min(max(slots, shape[1] + prompt.shape[1] + 2 * count), manifest.model.context_length)
    _, cache = model.runner.prefill(prompt, features, lengths, slots, cancel)

    def go_on() -> None:
        nonlocal cache
        for _ in range(count):
            _, cache = model.runner.decode(prompt[:, -1:], cache, cancel)

    return go_on
