"""The generation loop: prefill once, then one decode step a token, every row ending on its own.

Legend: B batch, N image tokens of a row, D width, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..bundle.schema import PrecisionFacts
from ..cancellation import Cancellation, Cancelled
from ..errors import NumericsError
from ..graphs.kv_cache import Cache
from ..graphs.model_runner import Array, ImageFeatures, ModelRunner
from .constraints import AnswerGrammar, GrammarState
from .sampling import SamplingOptions, sample
from .types import FinishReason


@dataclass(frozen=True)
class Event:
    """A row got an id, or ended, or both."""

    row: int
    id: int | None
    finish: FinishReason | None


@dataclass
class Clock:
    """Seconds and steps spent so far, filled while a batch is decoded."""

    prefill_s: float = 0.0
    first_token_at: float = 0.0  # time.perf_counter()
    decode_s: float = 0.0
    decoded_tokens: int = 0


def decode_batch(
    runner: ModelRunner,
    image_features: ImageFeatures,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    sampling: SamplingOptions,
    generators: Sequence[np.random.Generator],
    forms: Sequence[AnswerGrammar | None],
    cancel: Cancellation,
    clock: Clock,
) -> Iterator[Event]:
    """Generate for a batch of prompts of different lengths.

    Args:
        runner: the open graphs.
        image_features: float32[B, N, D].
        prompts: B lists of ids, BOS to newline.
        max_new_tokens: the most ids a row gets.
        sampling: how an id is chosen.
        generators: one source of randomness a row, so that no row depends on its neighbours.
        forms: what each row's answer may look like; None: anything.
        cancel: stops within one run of a graph.
        clock: receives the time spent.

    Yields:
        Each row's ids in order; its last event says why it ended. Stop ids are not among them.

    Raises:
        Cancelled: the switch was thrown.
        NumericsError: the logits are not numbers.
    """
    tokens = runner.manifest.tokens
    lengths = np.array([len(prompt) for prompt in prompts], dtype=np.int64)
    input_ids = np.full((len(prompts), lengths.max()), tokens.pad, dtype=np.int64)
    for row, prompt in enumerate(prompts):
        input_ids[row, : len(prompt)] = prompt

    context = runner.manifest.model.context_length
    slots = min(image_features.shape[1] + int(lengths.max()) + max_new_tokens, context)
    started = time.perf_counter()
    logits, cache = runner.prefill(input_ids, image_features, lengths, slots, cancel)
    clock.prefill_s = time.perf_counter() - started

    suppressed = np.array(tokens.suppressed, dtype=np.int64)
    counts = [0] * len(prompts)
    active = list(range(len(prompts)))
    places = [GrammarState()] * len(prompts)  # within what their forms allow
    with _lent(runner, cache):
        while True:
            cancel.check()
            # Rows that have ended go on as padding; nothing of theirs is read.
            chosen = np.full((len(prompts), 1), tokens.pad, dtype=np.int64)
            room = context - cache.lengths
            going_on = []
            for row in active:
                form, left = forms[row], min(max_new_tokens - counts[row], int(room[row]))
                allowed = None if form is None else form.allowed(places[row], left)
                token = _choose(
                    logits[row], sampling, generators[row], suppressed, allowed, runner.manifest.precision
                )
                clock.first_token_at = clock.first_token_at or time.perf_counter()
                if token in tokens.stop:
                    yield Event(row, None, "stop")
                    continue
                if form is not None:
                    places[row] = form.after(places[row], token)
                chosen[row, 0] = token
                counts[row] += 1
                ended = counts[row] == max_new_tokens or room[row] <= 1
                if not ended:
                    going_on.append(row)
                yield Event(row, token, "length" if ended else None)
            active = going_on
            if not active:
                return
            started = time.perf_counter()
            used = cache.lengths.copy()
            used[active] += 1
            logits, cache = runner.decode(chosen, cache, cancel)
            # Padding is written to the same slot again and again, so that it never leaves the cache.
            cache = replace(cache, lengths=used)
            clock.decode_s += time.perf_counter() - started
            clock.decoded_tokens += len(active)


@contextmanager
def _lent(runner: ModelRunner, cache: Cache) -> Iterator[None]:
    """A request's cache goes back to the runner however its steps end, with whether it holds numbers only."""
    reusable = False
    try:
        yield
        reusable = True
    except (Cancelled, GeneratorExit):
        reusable = True
        raise
    finally:
        runner.release(cache, reusable=reusable)


def _choose(
    logits: Array,
    sampling: SamplingOptions,
    generator: np.random.Generator,
    suppressed: NDArray[np.int64],
    allowed: NDArray[np.int64] | None,
    precision: PrecisionFacts,
) -> int:
    """`sample`, whose advice is of no use to who has taken it; among `allowed` ids, where there are any."""
    try:
        if allowed is not None:
            return int(allowed[sample(logits[allowed], sampling, generator)])
        return sample(logits, sampling, generator, suppressed)
    except NumericsError as error:
        if precision.name != "fp32":
            raise
        raise NumericsError(
            f"{error}; this bundle is fp32: `paligemma-onnx export --strict` tells whether its checkpoint "
            "holds NaN or infinity"
        ) from error
