"""A bundle behind the driver: no torch in this process.

Legend: B rows, K key-value heads, N image tokens, T prompt tokens, P slots, H head width, D width.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

import numpy as np

from paligemma_onnx.runtime import Cancellation, PaliGemma
from paligemma_onnx.runtime.diagnostics.benchmark import Benchmark, images_for
from paligemma_onnx.runtime.engine.device_tensor import DeviceTensor
from paligemma_onnx.runtime.graphs.kv_cache import Cache

from .metrics import PROMPT, Figures, figures_of, step_at_past

IMAGE_TOKENS = 64  # whose cache is repeated until it is as long as is asked
STEPS = 5  # timed behind each past, after one that is not


class Bundle:
    """A loaded bundle."""

    def __init__(self, folder: str, threads: int, tokens: int) -> None:
        self._model = PaliGemma.load(Path(folder), device="cpu", threads=threads)
        self._benchmark, self._tokens = Benchmark(self._model), tokens

    def once(self) -> None:
        """Answer about one picture."""
        self._benchmark.measure(images_for(None, 1), PROMPT, self._tokens)

    def round(self, batches: list[int], pasts: list[int]) -> Figures:
        """Requests of each number of pictures, then steps behind each length of cache."""
        pictures, figures = images_for(None, max(batches)), Figures()
        for size in batches:
            cost = self._benchmark.measure(pictures[:size], PROMPT, self._tokens)
            figures |= figures_of(cost)
            if size == 1:
                figures["own_share"] = cost.overhead_share
        return figures | {step_at_past(slots): self._step_s(slots) for slots in pasts}

    def _step_s(self, slots: int) -> float:
        """Median seconds of a decode step that starts with P slots of cache."""
        runner, cancel = self._benchmark.runner, Cancellation()
        width = self._model.manifest.model.hidden_size
        features = np.random.default_rng(0).standard_normal((1, IMAGE_TOKENS, width), dtype=np.float32)
        prompt = np.array([self._model.tokenizer.encode(PROMPT, slots)], dtype=np.int64)
        length = np.array([prompt.shape[1]], dtype=np.int64)
        used, steps = IMAGE_TOKENS + int(length[0]), 1 + STEPS
        spare = steps if self._model.manifest.cache.update == "in_place" else 0
        _, cache = runner.prefill(prompt, features, length, used, cancel)
        values = tuple(_repeated(value, used, slots, spare) for value in cache.values)
        cache = Cache(values, np.array([slots], dtype=np.int64))
        seconds = []
        for _ in range(steps):
            started = time.perf_counter()
            _, cache = runner.decode(prompt[:, -1:], cache, cancel)
            seconds.append(time.perf_counter() - started)
        return median(seconds[1:])


def _repeated(value: DeviceTensor, used: int, slots: int, spare: int) -> DeviceTensor:
    """Repeat a cache tensor's first `used` slots until it has P of them, and append `spare` zero slots."""
    content = value.to_numpy_view()
    times = -(-slots // used)
    array = np.tile(content[:, :, :used], (1, 1, times, 1))[:, :, :slots]
    array = np.pad(array, ((0, 0), (0, 0), (0, spare), (0, 0)))
    return DeviceTensor.from_numpy(array, value.dtype, value.placement, "a repeated cache")
