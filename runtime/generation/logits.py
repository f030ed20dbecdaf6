"""Repetition penalty and probability of a token: functions of the logits of one step.

Shapes: docs/notation.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

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

    The function makes few NumPy calls: after a decode step each call takes 5 to 10 us, because the step has
    displaced NumPy's code from the processor's caches.

    Args:
        logits: float32[V], as the graphs computed them.
        token_id: id of the token.
        near: the result of `near_locations`.

    Raises:
        NumericsError: a logit is NaN or +inf, or none is finite.
    """
    peak = np.maximum.reduce(logits)  # NaN if any logit is NaN
    check_peak(float(peak))
    weights = logits - peak
    np.exp(weights, out=weights)
    total = float(np.add.reduce(weights))  # relative error at most 2e-6 (pairwise sums), also for V = 257,216
    ids = near.get(token_id)
    location_prob = None if ids is None else float(np.add.reduce(weights[ids])) / total
    return TokenScore(float(logits[token_id]) - float(peak) - math.log(total), location_prob)
