"""A bundle on the device, timed; no torch in this process until all is timed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paligemma_onnx.runtime import Cancellation, PaliGemma
from paligemma_onnx.runtime.diagnostics.benchmark import Benchmark, Cost, images_for

from ..figures import PROMPT, Figures
from .costs import LOAD, taken, typical
from .device import Memory

PROFILED = 20  # decode steps


class Ours:
    """A loaded bundle."""

    def __init__(self, folder: str, device: str, tokens: int) -> None:
        self._memory = Memory(device)
        self._model = PaliGemma.load(Path(folder), device=device)
        self._figures: Figures = {LOAD: self._model.load_s, taken(0): self._memory.taken()}
        self._benchmark, self._tokens = Benchmark(self._model), tokens

    def once(self, batches: list[int]) -> None:
        """A request of each number of pictures, which takes memory and records steps."""
        for size in batches:
            self._ask(images_for(None, size))
            self._figures[taken(size)] = self._memory.taken()

    def round(self, batches: list[int], requests: int) -> Figures:
        """Some requests of each number of pictures, with what was found before."""
        figures = dict(self._figures)
        for size in batches:
            figures |= typical([self._ask(images_for(None, size)) for _ in range(requests)])
        return figures

    def profile(self, rows: int) -> dict[str, Any]:
        """What the GPU does in a step; see traffic.py."""
        from .traffic import profiled  # noqa: PLC0415  imports torch

        return profiled(self._model, rows, PROFILED)

    def _ask(self, pictures: Sequence[NDArray[np.uint8]]) -> Cost:
        return self._benchmark.ask(pictures, PROMPT, self._tokens)


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
