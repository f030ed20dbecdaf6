"""Repetition penalty and probability of a token: functions of the logits of one step.

Shapes: docs/notation.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .sampling import check_peak

NEAR = 20  # locations; an image has 1,024 of them from edge to edge, so this is 2 % of its side


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


def score_token(logits: NDArray[np.float32], token_id: int, location_ids: NDArray[np.int64]) -> TokenScore:
    """Return the score of a token.

    Args:
        logits: float32[V], as the graphs computed them.
        token_id: id of the token.
        location_ids: int64[locations], from the top or left edge to the bottom or right edge.

    Raises:
        NumericsError: a logit is NaN or +inf, or none is finite.
    """
    peak = logits.max()  # NaN if any logit is NaN
    check_peak(float(peak))
    # The sum is at least 1, its relative error at most 2e-6 (pairwise sums of float32), also for V = 257,216.
    weights = logits - peak
    total = float(np.exp(weights, out=weights).sum())
    near = None
    if (places := np.flatnonzero(location_ids == token_id)).size:
        ids = location_ids[max(0, places[0] - NEAR) : places[0] + NEAR + 1]
        near = float(weights[ids].sum()) / total
    return TokenScore(float(logits[token_id]) - float(peak) - math.log(total), near)
