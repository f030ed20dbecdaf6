"""A model made to say what another one said, and what it would have said in place of each token.

Left to itself, an answer that parts once from the other's has nothing more in common with it, and one close
call counts as twenty. So each token is chosen behind the other's tokens and counts once. An answer without
a difference is also what the model says left to itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from paligemma_onnx.runtime import PaliGemma, Request
from paligemma_onnx.runtime.generation.sampling import SamplingOptions, rng_for, sample
from paligemma_onnx.runtime.graphs.kv_cache import Cache
from paligemma_onnx.runtime.graphs.model_runner import Array, ModelRunner


@dataclass(frozen=True)
class Difference:
    """A token that is not the other's."""

    row: int
    position: int  # in the answer
    told: int  # the other's
    said: int
    gap: float  # between the two scores, by who says so now


class Forced:
    """A runner that lets the driver choose what it is told to."""

    def __init__(self, runner: ModelRunner, told: Sequence[Sequence[int]]) -> None:
        """Take a row's tokens, the stop id among them if there is one, for each row of a batch."""
        self.differences: list[Difference] = []
        self._runner, self._told, self._position = runner, told, 0
        self._suppressed = np.array(runner.manifest.tokens.suppressed, dtype=np.int64)

    def __getattr__(self, name: str) -> Any:
        """All else is the runner's."""
        return getattr(self._runner, name)

    def prefill(self, *arguments: Any) -> tuple[Array, Cache]:
        """As the runner, but for the scores."""
        logits, cache = self._runner.prefill(*arguments)
        return self._led(logits), cache

    def decode(self, *arguments: Any) -> tuple[Array, Cache]:
        """As the runner, but for the scores."""
        logits, cache = self._runner.decode(*arguments)
        return self._led(logits), cache

    def _led(self, logits: Array) -> Array:
        """Scores by which the driver chooses the other's token; raises NumericsError."""
        led, at = np.zeros_like(logits), self._position
        for row, told in enumerate(self._told):
            if at >= len(told):
                continue  # it has ended
            scores = logits[row]
            said = sample(scores, SamplingOptions(), rng_for(0, row), self._suppressed)
            if said != told[at]:
                gap = float(scores[said] - scores[told[at]])
                self.differences.append(Difference(row, at, told[at], said, gap))
            led[row, told[at]] = 1.0
        self._position += 1
        return led


def differences(
    model: PaliGemma, requests: Sequence[Request], answers: Sequence[Sequence[int]], most: int
) -> tuple[int, list[Difference]]:
    """Have a batch say given answers.

    Args:
        model: who says them.
        requests: what is asked.
        answers: ids without the stop id, which follows wherever there are fewer than `most`.
        most: tokens of an answer.

    Returns:
        How many tokens were compared, and those that differ.

    Raises:
        NumericsError: its scores are not numbers.
    """
    stop = model.manifest.tokens.stop[:1]
    told = [(*answer, *stop) if len(answer) < most else tuple(answer) for answer in answers]
    forced = Forced(model.runner, told)
    led = PaliGemma(model.manifest, model.tokenizer, cast("ModelRunner", forced), model.load_s)
    said = led.generate_batch(requests, max_new_tokens=most)
    assert [one.token_ids for one in said] == [tuple(answer) for answer in answers]
    return sum(map(len, told)), forced.differences
