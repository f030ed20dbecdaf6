"""The rows of a batch while their answers are generated.

Shapes: docs/notation.md.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..graphs.model_runner import Array, Ids
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


@dataclass(frozen=True)
class Rules:
    """Options that determine the tokens of every row, apart from logits and grammar."""

    sampling: SamplingOptions
    suppressed: NDArray[np.int64]  # ids that are never chosen
    stop: Collection[int]  # ids that end an answer
    max_new_tokens: int  # of an answer
    context_length: int  # number of slots that a row may use
    takes_chunks: bool  # whether a decode step may add several tokens to a row


@dataclass
class Row:
    """An answer that is being generated."""

    number: int  # in the batch
    generator: np.random.Generator
    grammar: AnswerGrammar | None  # None: the answer is not restricted
    scores: TokenScores | None  # None: no scores are requested
    seen: list[int]  # ids of the prompt and of the answer so far
    used: int  # slots in use up to the token whose logits are read next
    # The ids that the last run of a graph added to the row; later, the ids that the next run adds. The first
    # id belongs to the answer. If there are more, the answer is expected to continue with them.
    added: list[int]
    ended: bool = False
    tokens: int = 0  # of the answer so far
    state: GrammarState = field(default_factory=GrammarState)


def read_logits(row: Row, logits: Array, position: int, rules: Rules) -> TokenEvent:
    """Choose the token after one of the ids that the last run added, and continue the row with this token.

    If the run did not add the token after that id, set the ids that the next run adds.

    Args:
        row: the row, which the function changes.
        logits: float32[V] after the id.
        position: index of the id in `row.added`. The answer contains this id.
        rules: see `Rules`.

    Raises:
        NumericsError: the logits are NaN or infinite.
    """
    tokens_left = min(rules.max_new_tokens - row.tokens, rules.context_length - row.used)
    allowed = None if row.grammar is None else row.grammar.allowed(row.state, tokens_left)
    token_id = _sample_token(logits, rules, row.generator, allowed, row.seen)
    is_stop = token_id in rules.stop
    row.ended = is_stop or tokens_left == 1
    if row.scores is not None:
        row.scores.add(logits, token_id, is_last=row.ended)
    if is_stop:
        row.added = []
        return TokenEvent(row.number, None, "stop")
    if row.grammar is not None:
        row.state = row.grammar.advance(row.state, token_id)
    row.seen.append(token_id)
    row.tokens += 1
    if row.added[position + 1 : position + 2] == [token_id] and not row.ended:
        row.used += 1
    else:
        row.added = [token_id]
        if row.grammar is not None and rules.takes_chunks and not row.ended:
            # Logits after the last token that fits are not needed.
            row.added += row.grammar.expected_ids(row.state, tokens_left - 1)[: tokens_left - 2]
    return TokenEvent(row.number, token_id, "length" if row.ended else None)


def next_input_ids(rows: Sequence[Row], pad: int, max_tokens: int) -> Ids:
    """Return the ids that the next decode step adds, int64[B, T], padded on the right.

    Ids of a row that do not fit are removed from `Row.added`.

    Args:
        rows: the rows of the batch.
        pad: id of the padding.
        max_tokens: the largest T, at least 1.
    """
    for row in rows:
        row.added = row.added[:max_tokens]
    input_ids = np.full((len(rows), max(len(row.added) for row in rows)), pad, dtype=np.int64)
    for row in rows:
        input_ids[row.number, : len(row.added)] = row.added
    return input_ids


def _sample_token(
    logits: Array,
    rules: Rules,
    generator: np.random.Generator,
    allowed: NDArray[np.int64] | None,
    seen: Sequence[int],
) -> int:
    """Return the id of the chosen token. As in transformers, penalty and suppression come first.

    If `allowed` is given, choose one of these ids. Suppressed ids are excluded, unless all allowed ids are
    suppressed.
    """
    sampling = rules.sampling
    if float(sampling.repetition_penalty) != 1:
        logits = penalize(logits, np.array(seen, dtype=np.int64), float(sampling.repetition_penalty))
    if allowed is None:
        return sample(logits, sampling, generator, rules.suppressed)
    unsuppressed = allowed[~np.isin(allowed, rules.suppressed)]
    ids = unsuppressed if unsuppressed.size else allowed
    return int(ids[sample(logits[ids], sampling, generator)])
