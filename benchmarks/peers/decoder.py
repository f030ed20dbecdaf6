"""Measurements of a text decoder, in the process that has loaded it.

Imports the standard library only, and modules of this package that do.

Shapes: docs/notation.md.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from statistics import median

from ..metrics import Metrics, prefill_of, step_at_past

TEXT_TOKENS = 8  # of the prompt in metrics.py
IMAGE_TOKENS = 256  # of an image of 224 pixels
TOKENS = IMAGE_TOKENS + TEXT_TOKENS  # positions of the prefill, whatever the tokens stand for
FIRST_ID = 100  # of the prompt: an ordinary token in every vocabulary, those of miniatures included


class Decoder(ABC):
    """A loaded text decoder with greedy decoding."""

    def __init__(self, steps: int) -> None:
        """Take the number of decode steps that are timed after each prefill."""
        self._steps = steps

    @abstractmethod
    def clear_cache(self) -> None:
        """Empty the KV cache."""

    @abstractmethod
    def prefill(self, tokens: int) -> None:
        """Read that many tokens into an empty cache and compute the logits of the last position."""

    @abstractmethod
    def step(self) -> None:
        """Choose the most likely token, read it and compute the logits of its position."""

    def warm_up(self, batches: list[int]) -> None:
        """Run a prefill and a decode step of a single sequence, whatever `batches` contains."""
        del batches
        self.clear_cache()
        self.prefill(TOKENS)
        self.step()

    def round(self, batches: list[int], pasts: list[int]) -> Metrics:
        """Time a prefill of each length and decode steps after it, of a single sequence.

        The first step is not counted: some tools do in it what others do at the end of a prefill.
        """
        del batches
        metrics = Metrics()
        for tokens in pasts:
            self.clear_cache()
            metrics[prefill_of(tokens)] = seconds(partial(self.prefill, tokens))
            steps = [seconds(self.step) for _ in range(1 + self._steps)]
            metrics[step_at_past(tokens)] = median(steps[1:])
        return metrics


def capacity_for(tokens: int, steps: int) -> int:
    """Return the cache slots that a round needs."""
    return tokens + steps + 2  # the step that is not counted, and the last token chosen


def prompt_ids(tokens: int) -> list[int]:
    """Return that many ids; neighbours differ."""
    return [FIRST_ID + position % 7 for position in range(tokens)]


def seconds(work: Callable[[], object]) -> float:
    """Return the wall-clock seconds of a call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
