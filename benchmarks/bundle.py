"""Timing of a bundle; the process does not import torch."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

from paligemma_onnx.runtime import PaliGemma
from paligemma_onnx.runtime.diagnostics.benchmark import Benchmark, images_for

from .decode_steps import start_decoding
from .metrics import LOAD_S, PROMPT, Metrics, step_at_past
from .request_metrics import request_metrics


class Bundle:
    """A loaded bundle with the methods that `benchmarks.rounds` calls."""

    timed_steps = 5  # timed decode steps per cache length; one more step runs before them and is not timed

    def __init__(
        self,
        folder: str,
        tokens: int,
        threads: int | None = None,
        device: str = "cpu",
        engine: str = "onnxruntime",
    ) -> None:
        self.model = PaliGemma.load(Path(folder), device=device, threads=threads, engine=engine)
        self.metrics: Metrics = {LOAD_S: self.model.load_s}  # measured before the rounds
        self._benchmark, self._tokens = Benchmark(self.model), tokens

    def warm_up(self, batches: list[int]) -> None:
        """Answer one request for each number of images in `batches`."""
        for images in batches:
            self._benchmark.measure(images_for(None, images), PROMPT, self._tokens)

    def round(self, batches: list[int], pasts: list[int]) -> Metrics:
        """Time one request for each number of images in `batches`, then decode steps for each of `pasts`.

        Args:
            batches: numbers of images per request.
            pasts: numbers of tokens in the cache before the timed decode steps.

        Returns:
            Figures by name; metrics.py lists the names.
        """
        metrics = dict(self.metrics)
        for images in batches:
            cost = self._benchmark.measure(images_for(None, images), PROMPT, self._tokens)
            metrics |= request_metrics(cost)
            if images == 1:
                metrics["own_share"] = cost.overhead_share
        return metrics | {step_at_past(past): self._step_s(past) for past in pasts}

    def _step_s(self, past: int) -> float:
        """Return the median seconds of a decode step of one sequence with P = `past` cached tokens."""
        step = start_decoding(self.model, self._benchmark.runner, 1, past, 1 + self.timed_steps)
        seconds = []
        for _ in range(1 + self.timed_steps):
            started = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - started)
        return median(seconds[1:])
