"""Time a text decoder in the process that has loaded it.

This module and the modules that it imports need only the standard library.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from statistics import median

from ..metrics import Metrics, prefill_of, step_at_past

TEXT_TOKENS = 8  # number of tokens of the prompt in metrics.py
IMAGE_TOKENS = 256  # number of tokens of an image of 224 pixels
TOKENS = IMAGE_TOKENS + TEXT_TOKENS  # length of the prefill; other tools read text tokens only
FIRST_ID = 100  # first token id of the prompt; an ordinary token in every vocabulary, even of tiny models


class Decoder(ABC):
    """A loaded text decoder with greedy decoding.

    Args:
        steps: number of decode steps to time after each prefill.
    """

    def __init__(self, steps: int) -> None:
        self._steps = steps

    @abstractmethod
    def clear_cache(self) -> None:
        """Empty the KV cache."""

    @abstractmethod
    def prefill(self, tokens: int) -> None:
        """Read the given number of tokens into an empty cache, and compute the last position's logits."""

    @abstractmethod
    def step(self) -> None:
        """Choose the most likely token, read it, and compute the logits of its position."""

    def warm_up(self, batches: list[int]) -> None:
        """Run a prefill and a decode step of a single sequence; `batches` has no effect."""
        del batches
        self.clear_cache()
        self.prefill(TOKENS)
        self.step()

    def round(self, batches: list[int], pasts: list[int]) -> Metrics:
        """Time a prefill of each length in `pasts`, and the decode steps after it, with a single sequence.

        The first step is not timed, because some tools do work in it that other tools do in the prefill.

        Args:
            batches: no effect.
            pasts: lengths of the prefills, in tokens.

        Returns:
            Figures by name; ../metrics.py lists the names.
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
    """Return the number of cache slots that a round with one prefill and `steps` timed steps needs."""
    return tokens + steps + 2  # one slot for the step that is not timed, one for the last chosen token


def prompt_ids(tokens: int) -> list[int]:
    """Return the given number of token ids, in which neighbouring ids differ."""
    return [FIRST_ID + position % 7 for position in range(tokens)]


def seconds(work: Callable[[], object]) -> float:
    """Call a function, and return the wall-clock time of the call in seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
