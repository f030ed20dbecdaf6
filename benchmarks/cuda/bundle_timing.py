"""A bundle on the device, timed; no torch in this process until all is timed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paligemma_onnx.runtime import PaliGemma
from paligemma_onnx.runtime.diagnostics.benchmark import Benchmark, Cost, images_for

from ..metrics import PROMPT, Figures
from .costs import LOAD, taken, typical
from .device import Memory
from .transfers import profiled

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
        """What the GPU does in a step; see transfers.py."""
        return profiled(self._model, rows, PROFILED)

    def _ask(self, pictures: Sequence[NDArray[np.uint8]]) -> Cost:
        return self._benchmark.measure(pictures, PROMPT, self._tokens)
