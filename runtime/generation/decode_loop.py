"""The generation loop: one prefill, then decode steps; each row ends independently.

A decode step adds the chosen token to each row. In a constrained answer some of the tokens that follow are
the only ones that the grammar allows, or can be guessed: the rest of a label, the separator, the next label.
If the decode graph takes several tokens, the step adds them at once. The loop still chooses every token from
the logits before it, as if each token had a step of its own, and uses the logits after an added token only if
the loop chose this token. The answer, its scores and the random numbers that it draws are therefore those of
single steps.

Shapes: docs/notation.md.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from ..bundle.schema import Manifest, PrecisionFacts
from ..cancellation import Cancellation, Cancelled
from ..errors import NumericsError
from ..graphs.kv_cache import Cache
from ..graphs.model_runner import ImageFeatures, ModelRunner
from .constraints import AnswerGrammar
from .logits import TokenScores
from .rows import Row, Rules, TokenEvent, next_input_ids, read_logits
from .sampling import SamplingOptions

# Tokens of a decode step in all rows together, if a row has more than one. More of them take longer: a step
# is then bound by arithmetic and no longer by reading the weights.
MAX_STEP_TOKENS = 32
SHARED_SCALE = "com.microsoft.DynamicQuantizeMatMul"  # operator with one scale for all tokens of a call


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
    for number, prompt in enumerate(prompts):
        input_ids[number, : len(prompt)] = prompt

    context = runner.manifest.model.context_length
    slots = min(image_features.shape[1] + int(lengths.max()) + max_new_tokens, context)
    started = time.perf_counter()
    logits, cache = runner.prefill(input_ids, image_features, lengths, slots, cancel)
    timings.prefill_s = time.perf_counter() - started

    rules = Rules(
        sampling=sampling,
        suppressed=np.unique(np.array([*tokens.suppressed, *sampling.suppress_tokens], dtype=np.int64)),
        stop=tokens.stop,
        max_new_tokens=max_new_tokens,
        context_length=context,
        takes_chunks=_steps_may_be_joined(runner.manifest, len(prompts)),
    )
    # The logits of prefill follow the last id of each prompt.
    rows = [
        Row(
            number,
            generators[number],
            grammars[number],
            scores[number],
            seen=list(prompt),
            used=int(cache.lengths[number]),
            added=[prompt[-1]],
        )
        for number, prompt in enumerate(prompts)
    ]
    read = logits[:, None]  # [B, T, V]
    with _released_afterwards(runner, cache), _advice_for_fp32(runner.manifest.precision):
        while True:
            reading, position = [row for row in rows if not row.ended], 0
            while reading:
                cancel.check()
                agreeing = list[Row]()
                for row in reading:
                    used = row.used
                    event = read_logits(row, read[row.number, position], position, rules)
                    timings.first_token_at = timings.first_token_at or time.perf_counter()
                    if row.used > used:  # the run also computed the logits after the chosen token
                        agreeing.append(row)
                    yield event
                timings.decoded_tokens += len(agreeing)
                reading, position = agreeing, position + 1
            active = [row for row in rows if not row.ended]
            if not active:
                return
            lengths = np.array([row.used for row in rows], dtype=np.int64)
            max_tokens = max(1, min(MAX_STEP_TOKENS // len(rows), slots - int(lengths.max())))
            input_ids = next_input_ids(rows, tokens.pad, max_tokens)
            started = time.perf_counter()
            logits, cache = runner.decode(input_ids, replace(cache, lengths=lengths), cancel)
            read = logits.reshape(*input_ids.shape, -1)
            for row in rows:
                if row.ended:
                    row.added = []  # The row continues with padding, which overwrites slots of the cache.
                else:
                    row.used += 1
            timings.decode_s += time.perf_counter() - started
            timings.decoded_tokens += len(active)


def _steps_may_be_joined(manifest: Manifest, rows: int) -> bool:
    """Return whether the steps of a batch may add several tokens to a row.

    `DynamicQuantizeMatMul` quantises activations with one scale per call. If a step of this operator added
    several tokens, they would change each other's logits, and thus the answer.
    """
    wide_batch = manifest.precision.wide_batch
    in_prefill_graph = wide_batch is not None and rows >= wide_batch
    graph = manifest.graphs.prefill if in_prefill_graph else manifest.graphs.decode
    return manifest.takes_chunks and SHARED_SCALE not in graph.operators


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
