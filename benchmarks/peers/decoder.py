"""What is measured of every decoder, in the process that has loaded it.

Imports the standard library only, and modules of this folder that do.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from statistics import median

from ..metrics import Figures, prefill_of, step_at_past

TEXT_TOKENS = 8  # of a prompt, as in metrics.py
IMAGE_TOKENS = 256  # of a picture of 224 pixels
TOKENS = IMAGE_TOKENS + TEXT_TOKENS  # that are read before the first step, whatever they stand for
FIRST_ID = 100  # of the prompt: a word in every vocabulary, the miniatures' too


class Decoder(ABC):
    """A loaded text decoder that reads tokens and always goes on with the likeliest one."""

    def __init__(self, steps: int) -> None:
        """Take how many steps are timed behind a prompt."""
        self._steps = steps

    @abstractmethod
    def forget(self) -> None:
        """Empty the cache."""

    @abstractmethod
    def prefill(self, tokens: int) -> None:
        """Read T tokens into an empty cache, up to the logits behind the last one."""

    @abstractmethod
    def step(self) -> None:
        """Choose the likeliest token and read it, up to the logits behind it."""

    def once(self) -> None:
        """Read a prompt and go one step, as a warm-up."""
        self.forget()
        self.prefill(TOKENS)
        self.step()

    def round(self, batches: list[int], pasts: list[int]) -> Figures:
        """Read a prompt of each length, then step behind it; a single row, whatever `batches` says.

        The first step is not counted: some tools put off to it what others do at the end of a prefill.
        """
        del batches
        figures = Figures()
        for tokens in pasts:
            self.forget()
            figures[prefill_of(tokens)] = seconds(partial(self.prefill, tokens))
            steps = [seconds(self.step) for _ in range(1 + self._steps)]
            figures[step_at_past(tokens)] = median(steps[1:])
        return figures


def slots_for(tokens: int, steps: int) -> int:
    """Slots of cache that a round needs."""
    return tokens + steps + 2  # the step that is not counted, and the token behind the last


def prompt_ids(tokens: int) -> list[int]:
    """So many ids, no two neighbours alike."""
    return [FIRST_ID + place % 7 for place in range(tokens)]


def seconds(work: Callable[[], object]) -> float:
    """What a call takes, on a clock on the wall."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
