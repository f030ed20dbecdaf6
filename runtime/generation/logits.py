"""Repetition penalty, and probabilities of the generated tokens.

Shapes: docs/notation.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .sampling import check_peak

NEAR = 20  # locations; an image has 1,024 of them from edge to edge, so this is 2 % of its side
BLOCK = 1 << 14  # logits; they and their weights take 128 KiB, which fits in the L2 cache of a core
# If the largest logit is between 0 and this number, the sum of exp(logit) over any vocabulary fits in float32
# (e^60 = 1e26, of 3e38), and what underflows is below e^-87 of it.
MAX_UNSHIFTED = 60.0
MAX_PENDING = 1 << 17  # logits of a row that wait for their score; they take 512 KiB


def penalize(logits: NDArray[np.float32], seen: NDArray[np.int64], penalty: float) -> NDArray[np.float32]:
    """Return a copy of the logits, float32[V], in which the tokens `seen` are less likely (penalty > 1).

    Like transformers' RepetitionPenaltyLogitsProcessor, it divides positive logits by the penalty, multiplies
    negative logits by it, and counts a token once however often it was seen.

    Args:
        logits: float32[V], not modified.
        seen: int64[seen], ids of the prompt and of the answer so far.
        penalty: finite and more than 0.
    """
    penalized, chosen, factor = logits.copy(), logits[seen], np.float32(penalty)
    penalized[seen] = np.where(chosen < 0, chosen * factor, chosen / factor)
    return penalized


@dataclass(frozen=True)
class TokenScore:
    """The model's probability of a generated token, without any option of sampling.

    Attributes:
        logprob: natural logarithm of the token's probability.
        location_prob: for a location token the probability of all location tokens at most NEAR locations
            away; None for other tokens.
    """

    logprob: float
    location_prob: float | None


@lru_cache(maxsize=4)  # one entry per loaded bundle: making it takes as long as a decode step
def near_locations(location_ids: tuple[int, ...]) -> Mapping[int, NDArray[np.int64]]:
    """Return for each location token the ids of the location tokens at most NEAR locations away."""
    ids = np.array(location_ids, dtype=np.int64)
    return {
        token_id: ids[max(0, place - NEAR) : place + NEAR + 1] for place, token_id in enumerate(location_ids)
    }


def score_token(
    logits: NDArray[np.float32], token_id: int, near: Mapping[int, NDArray[np.int64]]
) -> TokenScore:
    """Return the score of a token.

    The sum of exp(logit - shift) is computed in blocks that stay in the processor's cache: in float32 within
    a block, and in float64 over the blocks. The shift is the maximum, or 0 if no subtraction is needed. The
    measured error of a log-probability is below 1e-6.

    Args:
        logits: float32[V], as the graphs computed them.
        token_id: id of the token.
        near: the result of `near_locations`.

    Raises:
        NumericsError: a logit is NaN or +inf, or none is finite.
    """
    peak = np.maximum.reduce(logits)  # NaN if any logit is NaN
    check_peak(float(peak))
    shift = np.float32(0) if 0 <= peak <= MAX_UNSHIFTED else peak
    total = 0.0
    for start in range(0, logits.size, BLOCK):
        block = logits[start : start + BLOCK]
        total += float(np.add.reduce(np.exp(block - shift if shift else block)))
    ids = near.get(token_id)
    location_prob = None if ids is None else float(np.add.reduce(np.exp(logits[ids] - shift))) / total
    return TokenScore(float(logits[token_id]) - float(shift) - math.log(total), location_prob)


@dataclass
class TokenScores:
    """The scores of a row's tokens.

    The scores of several steps are computed one after another. After a decode step each NumPy call takes 5 to
    10 us, because the step has displaced NumPy's code from the processor's caches; the next call of the same
    function takes about 1 us.

    Attributes:
        near: the result of `near_locations`.
    """

    near: Mapping[int, NDArray[np.int64]]
    _scores: list[TokenScore] = field(default_factory=list)
    _pending: list[tuple[NDArray[np.float32], int]] = field(default_factory=list)

    def add(self, logits: NDArray[np.float32], token_id: int, *, is_last: bool) -> None:
        """Add a token of the row.

        Args:
            logits: float32[V]. The array is read later, so it must not change.
            token_id: id of the token.
            is_last: whether the row ends with this token. If so, the scores of all tokens are computed now.

        Raises:
            NumericsError: a logit of this step or of an earlier one is NaN or +inf, or none is finite.
        """
        self._pending.append((logits, token_id))
        if is_last or len(self._pending) * logits.size >= MAX_PENDING:
            self._scores += self._score_pending()
            self._pending.clear()

    def so_far(self) -> list[TokenScore]:
        """Return the scores of all tokens that were added, in order.

        Raises:
            NumericsError: a logit of a step is NaN or +inf, or none is finite.
        """
        return [*self._scores, *self._score_pending()]

    def _score_pending(self) -> list[TokenScore]:
        with np.errstate(under="ignore"):  # the weights of unlikely tokens are 0
            return [score_token(logits, token_id, self.near) for logits, token_id in self._pending]
