"""Token agreement under teacher forcing: the share of a reference model's tokens that a model also chooses.

After their first difference, two freely generated answers have nothing in common, so a single close decision
would count as many differences. Under teacher forcing, the model chooses each token after the reference's
earlier tokens, so a close decision counts once. If no token of an answer differs, the model also generates
this answer freely.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np

from paligemma_onnx.runtime import PaliGemma, Request
from paligemma_onnx.runtime.generation.sampling import SamplingOptions, rng_for, sample
from paligemma_onnx.runtime.graphs.kv_cache import Cache
from paligemma_onnx.runtime.graphs.model_runner import Array, ModelRunner

from .prompts import Prompt

ROWS = 16  # sequences per batch
MAX_TOKENS = 160  # tokens per answer; five objects with masks take 5 * 23 tokens and the stop token
MAX_LISTED = 20  # maximum number of differences in a report
Answers = Sequence[Sequence[int]]  # ids of each answer, without the stop id


@dataclass(frozen=True)
class Difference:
    """A token at which the choices of the two models differ."""

    row: int
    position: int  # index of the token in the answer
    expected: int  # id that the reference chose
    actual: int  # id that the model chose
    gap: float  # the model's logit of `actual` minus its logit of `expected`


class TeacherForcedRunner:
    """A runner that makes the decode loop choose given tokens, and that collects differing choices.

    Args:
        runner: runner of the model that is compared.
        expected: the ids of each row of a batch, followed by the stop id unless the answer was cut.
    """

    def __init__(self, runner: ModelRunner, expected: Answers) -> None:
        self.differences: list[Difference] = []
        self._runner, self._expected, self._position = runner, expected, 0
        self._suppressed = np.array(runner.manifest.tokens.suppressed, dtype=np.int64)

    def __getattr__(self, name: str) -> Any:
        """Return any other attribute of the runner."""
        return getattr(self._runner, name)

    def prefill(self, *arguments: Any) -> tuple[Array, Cache]:
        """Call the runner's prefill, and replace its logits by those of the given tokens."""
        logits, cache = self._runner.prefill(*arguments)
        return self._force(logits), cache

    def decode(self, *arguments: Any) -> tuple[Array, Cache]:
        """Call the runner's decode step, and replace its logits by those of the given tokens."""
        logits, cache = self._runner.decode(*arguments)
        return self._force(logits), cache

    def _force(self, logits: Array) -> Array:
        """Compare the model's choices with the expected tokens, and return logits that select these tokens.

        Args:
            logits: the model's logits, float32[B, V].

        Raises:
            NumericsError: a logit is not finite.
        """
        forced, position = np.zeros_like(logits), self._position
        for row, expected in enumerate(self._expected):
            if position >= len(expected):
                continue  # the row has ended
            scores = logits[row]
            actual = sample(scores, SamplingOptions(), rng_for(0, row), self._suppressed)
            if actual != expected[position]:
                gap = float(scores[actual] - scores[expected[position]])
                self.differences.append(Difference(row, position, expected[position], actual, gap))
            forced[row, expected[position]] = 1.0
        self._position += 1
        return forced


def differences(
    model: PaliGemma, requests: Sequence[Request], answers: Answers, max_tokens: int
) -> tuple[int, list[Difference]]:
    """Compare a model's choices with the answers of a reference model to one batch of requests.

    Args:
        model: the model to compare.
        requests: the requests of the batch.
        answers: the reference's answers. The stop id follows each answer of fewer than `max_tokens` ids.
        max_tokens: maximum number of ids per answer.

    Returns:
        The number of compared tokens, and the tokens that differ.

    Raises:
        NumericsError: a logit is not finite.
    """
    stop = model.manifest.tokens.stop[:1]
    expected = [(*answer, *stop) if len(answer) < max_tokens else tuple(answer) for answer in answers]
    runner = TeacherForcedRunner(model.runner, expected)
    forced = PaliGemma(model.manifest, model.tokenizer, cast(ModelRunner, runner), model.load_s)
    generations = forced.generate_batch(requests, max_new_tokens=max_tokens)
    assert [generation.token_ids for generation in generations] == [tuple(answer) for answer in answers]
    return sum(map(len, expected)), runner.differences


def batches_of(prompts: Sequence[Prompt]) -> Iterator[tuple[int, list[Request]]]:
    """Yield each batch as a pair: index of its first prompt, requests."""
    for start in range(0, len(prompts), ROWS):
        yield start, [Request(prompt.image, prompt.text) for prompt in prompts[start : start + ROWS]]


def answers_of(model: PaliGemma, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Return the ids of a model's answers to prompts, without the stop ids."""
    return [
        list(generation.token_ids)
        for _, requests in batches_of(prompts)
        for generation in model.generate_batch(requests, max_new_tokens=MAX_TOKENS)
    ]


def token_agreement(model: PaliGemma, prompts: Sequence[Prompt], answers: Answers) -> dict[str, Any]:
    """Compare a model's choices with a reference model's answers to the same prompts; return a report."""
    tokens, listed, answers_apart = 0, list[dict[str, Any]](), set[int]()
    for start, requests in batches_of(prompts):
        compared, batch_differences = differences(model, requests, answers[start : start + ROWS], MAX_TOKENS)
        tokens += compared
        for difference in batch_differences:
            prompt = prompts[start + difference.row]
            listed.append({"image": prompt.image_name, "prompt": prompt.text} | asdict(difference))
            answers_apart.add(start + difference.row)
    return {
        "tokens": tokens,
        "agreed": tokens - len(listed),
        "share": (tokens - len(listed)) / tokens,
        "answers": len(prompts),
        "whole_answers": len(prompts) - len(answers_apart),
        # Number of differences at equal logits, which half precision does not distinguish. Greedy decoding
        # chooses the lower id.
        "ties": sum(difference["gap"] == 0.0 for difference in listed),
        "largest_gap": max((difference["gap"] for difference in listed), default=0.0),
        "differences": listed[:MAX_LISTED],
    }
