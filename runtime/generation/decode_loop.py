"""The generation loop: one prefill, then one decode step per token; each row ends independently.

Shapes: docs/notation.md.
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
from .logits import TokenScores, penalize
from .sampling import SamplingOptions, sample
from .types import FinishReason


@dataclass(frozen=True)
class TokenEvent:
    """An event of a row: the row received an id, the row ended, or both."""

    row: int
    token_id: int | None
    finish_reason: FinishReason | None


@dataclass
class DecodeTimings:
    """Seconds and tokens so far, updated while a batch is decoded."""

    prefill_s: float = 0.0
    first_token_at: float = 0.0  # time.perf_counter(); 0: before the first token
    decode_s: float = 0.0
    decoded_tokens: int = 0  # tokens of decode steps: the first token of each row is not counted


def decode_batch(
    runner: ModelRunner,
    image_features: ImageFeatures,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    sampling: SamplingOptions,
    generators: Sequence[np.random.Generator],
    grammars: Sequence[AnswerGrammar | None],
    scores: Sequence[TokenScores | None],
    cancel: Cancellation,
    timings: DecodeTimings,
) -> Iterator[TokenEvent]:
    """Generate the answers to a batch of prompts, which may have different lengths.

    Args:
        runner: the open graphs.
        image_features: float32[B, N, D].
        prompts: B lists of ids, BOS to newline.
        max_new_tokens: maximum number of ids per row, at least 1.
        sampling: options for choosing each id.
        generators: one random generator per row, so that a row does not depend on the others.
        grammars: for each row the grammar of its answer, or None for an answer without restriction.
        scores: for each row the object that receives its tokens and, if a stop id ends the row, the stop id;
            None: no scores are requested.
        cancel: triggers the end of generation, at the latest after the graph run in progress.
        timings: receives the time spent.

    Yields:
        Events with the ids of each row in order, without stop ids. The last event of a row has the row's
        finish reason.

    Raises:
        Cancelled: `cancel` was triggered.
        NumericsError: the logits are NaN or infinite.
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
    timings.prefill_s = time.perf_counter() - started

    suppressed = np.unique(np.array([*tokens.suppressed, *sampling.suppress_tokens], dtype=np.int64))
    seen = [list(prompt) for prompt in prompts]
    counts = [0] * len(prompts)
    active = list(range(len(prompts)))
    states = [GrammarState()] * len(prompts)
    with _released_afterwards(runner, cache), _advice_for_fp32(runner.manifest.precision):
        while True:
            cancel.check()
            # Rows that have ended continue with padding; their logits are not read.
            next_ids = np.full((len(prompts), 1), tokens.pad, dtype=np.int64)
            slots_left = context - cache.lengths
            continuing = []
            for row in active:
                grammar, tokens_left = grammars[row], min(max_new_tokens - counts[row], int(slots_left[row]))
                allowed = None if grammar is None else grammar.allowed(states[row], tokens_left)
                token_id = _sample_token(
                    logits[row], sampling, generators[row], suppressed, allowed, seen[row]
                )
                is_stop = token_id in tokens.stop
                ended = is_stop or counts[row] + 1 == max_new_tokens or slots_left[row] <= 1
                if (row_scores := scores[row]) is not None:
                    row_scores.add(logits[row], token_id, is_last=ended)
                timings.first_token_at = timings.first_token_at or time.perf_counter()
                if is_stop:
                    yield TokenEvent(row, None, "stop")
                    continue
                if grammar is not None:
                    states[row] = grammar.advance(states[row], token_id)
                next_ids[row, 0] = token_id
                seen[row].append(token_id)
                counts[row] += 1
                if not ended:
                    continuing.append(row)
                yield TokenEvent(row, token_id, "length" if ended else None)
            active = continuing
            if not active:
                return
            started = time.perf_counter()
            used = cache.lengths.copy()
            used[active] += 1
            logits, cache = runner.decode(next_ids, cache, cancel)
            # The length of an ended row does not grow: its padding overwrites one slot of the cache.
            cache = replace(cache, lengths=used)
            timings.decode_s += time.perf_counter() - started
            timings.decoded_tokens += len(active)


@contextmanager
def _released_afterwards(runner: ModelRunner, cache: Cache) -> Iterator[None]:
    """Release a cache when the block ends.

    After an error the cache may contain NaN, so it is released as not reusable. A cancellation does not count
    as an error.
    """
    reusable = False
    try:
        yield
        reusable = True
    except (Cancelled, GeneratorExit):
        reusable = True
        raise
    finally:
        runner.release(cache, reusable=reusable)


def _sample_token(
    logits: Array,
    sampling: SamplingOptions,
    generator: np.random.Generator,
    suppressed: NDArray[np.int64],
    allowed: NDArray[np.int64] | None,
    seen: Sequence[int],
) -> int:
    """Return the id of the chosen token. As in transformers, penalty and suppression come first.

    If `allowed` is given, choose one of these ids. Suppressed ids are excluded, unless all allowed ids are
    suppressed.
    """
    if float(sampling.repetition_penalty) != 1:
        logits = penalize(logits, np.array(seen, dtype=np.int64), float(sampling.repetition_penalty))
    if allowed is None:
        return sample(logits, sampling, generator, suppressed)
    unsuppressed = allowed[~np.isin(allowed, suppressed)]
    ids = unsuppressed if unsuppressed.size else allowed
    return int(ids[sample(logits[ids], sampling, generator)])


@contextmanager
def _advice_for_fp32(precision: PrecisionFacts) -> Iterator[None]:
    """Raise a NumericsError of the block with different advice if the bundle is fp32.

    The message of the error advises the user to use an fp32 bundle.
    """
    try:
        yield
    except NumericsError as error:
        if precision.name != "fp32":
            raise
        raise NumericsError(
            f"{error}; this bundle is fp32: `paligemma-onnx export --strict` checks whether its checkpoint "
            "contains NaN or infinity"
        ) from error
