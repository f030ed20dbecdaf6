"""Selection of a token id from the logits of a step: greedy, or sampled with temperature, top-k and top-p.

The vocabulary is not sorted: top-k is one selection (introselect), and top-p is a weighted quickselect on the
weights that can change the result. The cost per step is linear in V. With V = 257,216 on one core of a server
(AMD EPYC), greedy takes 0.02 ms and top-k takes 1.5 to 3 ms. top-p takes 0.5 ms on peaked logits and 8 ms on
flat logits.

Shapes: docs/notation.md.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Integral, Real

import numpy as np
from numpy.typing import NDArray

from ..errors import NumericsError, OptionError

NUM_SEEDS = 2**64  # a seed is an unsigned 64-bit integer
_Weigh = Callable[[NDArray[np.float32]], NDArray[np.float64]]
_MAX_SORTED = 64  # weights; more are halved at their median before they are sorted


@dataclass(frozen=True)
class SamplingOptions:
    """Options for choosing the next token.

    Attributes:
        temperature: divisor of the logits, finite and at least 0. With 0 the most likely token is always
            taken.
        top_k: number of most likely tokens that are kept, at least 0. 0 keeps all tokens.
        top_p: among the tokens that `top_k` keeps, the most likely tokens with this total probability are
            kept (nucleus sampling, arXiv 1904.09751, section 3.1). More than 0 and at most 1.
        seed: 0 to 2**64 - 1. With None each call draws a random seed.
        repetition_penalty: finite and more than 0; see `penalize`.
        suppress_tokens: ids that are never chosen.

    Raises:
        OptionError: a value is outside its range; the message names the option and the range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None
    repetition_penalty: float = 1.0
    suppress_tokens: Sequence[int] = ()

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 <= _number(self.temperature) < math.inf:
            raise OptionError(f"temperature must be a finite number >= 0, not {_quote(self.temperature)}")
        if not (_is_whole(self.top_k) and self.top_k >= 0):
            raise OptionError(f"top_k must be a whole number >= 0 (0 keeps all), not {_quote(self.top_k)}")
        if not 0 < _number(self.top_p) <= 1:
            raise OptionError(f"top_p must be a number > 0 and <= 1, not {_quote(self.top_p)}")
        penalty = self.repetition_penalty
        if not 0 < _number(penalty) < math.inf:
            raise OptionError(f"repetition_penalty must be a finite number > 0, not {_quote(penalty)}")
        suppressed = self.suppress_tokens
        if not isinstance(suppressed, list | tuple) or not all(map(_is_whole, suppressed)):
            raise OptionError("suppress_tokens must be a list or tuple of token ids, such as [108, 235]")
        if self.seed is not None and not (_is_whole(self.seed) and 0 <= self.seed < NUM_SEEDS):
            raise OptionError(f"seed must be a whole number from 0 to 2**64 - 1, not {_quote(self.seed)}")

    @property
    def is_greedy(self) -> bool:
        """True if the most likely token is always taken and no random number is drawn."""
        return float(self.temperature) == 0


def sample(
    logits: NDArray[np.float32],
    options: SamplingOptions,
    rng: np.random.Generator,
    suppressed: NDArray[np.int64] | None = None,
) -> int:
    """Return the id of the chosen token.

    Greedy decoding takes the lowest id among equal logits and does not draw from `rng`. Sampling draws
    exactly one number from `rng`.

    Args:
        logits: float32[V], not modified.
        options: options for choosing the token.
        rng: source of random numbers.
        suppressed: int64[suppressed], ids that are never chosen.

    Raises:
        NumericsError: a logit is NaN or +inf, or none is finite.
    """
    if options.is_greedy:
        return _most_likely(logits, suppressed)
    ids, weights = candidates(logits, options, suppressed)
    cumulative = np.cumsum(weights, out=weights)
    # The index is in range: u <= 1 - 2**-53 keeps u * total below the total, which is at least the peak's 1.
    return int(ids[np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right")])


def candidates(
    logits: NDArray[np.float32],
    options: SamplingOptions,
    suppressed: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the ids that pass the filters and their unnormalised probabilities.

    Temperature (> 0) is applied first, then top-k, then top-p on the remaining ids. transformers' warpers use
    the same order. Among equal logits at the boundary of top-k or top-p, the lowest ids are kept. So top-k
    keeps exactly k ids, and top_k=1 is greedy. (Among equal logits, transformers keeps all ids at the
    boundary of top-k, and arbitrary ids at the boundary of top-p.)

    Weights and their sums are float64: over V = 257,216 terms the relative error of a sum is at most 3e-11
    (V * 2**-53), far below any practical top_p. A running float32 sum may lose 1 % and move the boundary.

    Args:
        logits: float32[V], not modified.
        options: with a temperature above 0.
        suppressed: int64[suppressed], ids that are never chosen. A suppressed id that passes the filters has
            the weight 0.

    Returns:
        Ids, int64[candidates] ascending, and weights, float64[candidates].

    Raises:
        NumericsError: a logit is NaN or +inf, or none is finite.
    """
    peak = logits[_most_likely(logits, suppressed)]
    if suppressed is not None:
        logits = _without(logits, suppressed)
    ids = _largest(logits, options.top_k) if 0 < options.top_k < logits.size else None
    candidate_logits = logits if ids is None else logits[ids]
    weigh = partial(_weigh, peak=peak, temperature=float(options.temperature))
    weights = weigh(candidate_logits)
    if options.top_p < 1:
        nucleus = _nucleus(candidate_logits, weights, float(options.top_p), weigh)
        return (nucleus if ids is None else ids[nucleus]), weights[nucleus]
    return (np.arange(logits.size, dtype=np.int64) if ids is None else ids), weights


def rng_for(seed: int, row: int) -> np.random.Generator:
    """Return the generator of a row: the generator of a single request with seed `seed + row` (mod 2**64)."""
    return np.random.Generator(np.random.PCG64((int(seed) + row) % NUM_SEEDS))


def random_seed() -> int:
    """Return a random 64-bit seed from the operating system."""
    return secrets.randbits(64)


def _most_likely(logits: NDArray[np.float32], suppressed: NDArray[np.int64] | None) -> int:
    """Return the id of the largest logit that is not suppressed: the lowest id among equal logits.

    The function usually needs one pass over the logits.
    """
    best = int(logits.argmax())  # argmax prefers a NaN, so this logit shows any NaN or +inf
    check_peak(float(logits[best]))
    if suppressed is not None and best in suppressed:
        logits = _without(logits, suppressed)
        best = int(logits.argmax())
        check_peak(float(logits[best]))
    return best


def check_peak(peak: float) -> None:
    """Raise NumericsError if the largest logit is not a finite number."""
    if not math.isfinite(peak):
        problem = "NaN logits" if math.isnan(peak) else "an infinite logit" if peak > 0 else "no finite logit"
        raise NumericsError(
            f"the graphs computed {problem}: numbers overflowed; use precision fp32 or bf16 instead"
        )


def _without(logits: NDArray[np.float32], suppressed: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return a copy of the logits, float32[V], with -inf at the suppressed ids."""
    masked = logits.copy()
    masked[suppressed] = -np.inf
    return masked


def _largest(logits: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Return the ids of the `count` largest logits, int64[count] ascending.

    Among equal logits the lowest ids are returned.
    """
    boundary = np.partition(logits, logits.size - count)[logits.size - count]
    return _above(logits, boundary, count)


def _weigh(logits: NDArray[np.float32], *, peak: np.float32, temperature: float) -> NDArray[np.float64]:
    """Return the softmax weights float64[V], exp((logit - peak) / temperature). The peak's weight is 1."""
    weights = logits.astype(np.float64)
    # Computed in place: at this size, page faults of a new array cost ten times as much as the arithmetic.
    with np.errstate(
        over="ignore", under="ignore"
    ):  # at a tiny temperature all weights except the peak's are 0
        weights -= peak
        weights /= temperature
        return np.exp(weights, out=weights)


def _nucleus(
    logits: NDArray[np.float32], weights: NDArray[np.float64], top_p: float, weigh: _Weigh
) -> NDArray[np.int64]:
    """Return the positions of the smallest set whose weights reach `top_p` of the total.

    Among n weights, those below (1 - top_p) * total / n together have less than 1 - top_p of the total, so
    the set needs none of these small weights. The other weights are split at their median. The half with the
    boundary is split again, and so on, in n + n/2 + ... = 2 n steps. The ranking uses the logits instead of
    the weights, since weights of different logits may round to equal numbers.

    Returns:
        Positions, int64[nucleus] ascending, with at least one position.
    """
    total = weights.sum()
    goal = top_p * total
    # Half of the bound is used, so that rounding in the sums cannot make the bound too high.
    undecided = logits[weights >= 0.5 * (1 - top_p) * total / weights.size]
    reached, included = 0.0, 0
    while undecided.size > _MAX_SORTED:
        half = undecided.size // 2
        undecided.partition(half)
        lower, upper = undecided[:half], undecided[half:]
        reached_with_upper = reached + weigh(upper).sum()
        if reached_with_upper >= goal:
            undecided = upper
        else:
            reached, included, undecided = reached_with_upper, included + upper.size, lower
    ordered = np.sort(undecided)[::-1]
    last = min(int(np.searchsorted(reached + np.cumsum(weigh(ordered)), goal)), ordered.size - 1)
    return _above(logits, ordered[last], included + last + 1)


def _above(logits: NDArray[np.float32], boundary: np.float32, count: int) -> NDArray[np.int64]:
    """Return the positions of the `count` largest logits, int64[count] ascending.

    The smallest of these logits equals `boundary`.
    """
    positions = np.flatnonzero(logits >= boundary)
    surplus = positions.size - count
    if surplus:
        equals = np.flatnonzero(logits[positions] == boundary)
        positions = np.delete(positions, equals[equals.size - surplus :])
    return positions


def _number(value: object) -> float:
    """Return `value` as a float.

    If `value` is too large or is not a real number, return NaN. No range contains NaN.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def _is_whole(value: object) -> bool:
    """Return whether `value` is an integer. The values True and False do not count as integers."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def _quote(value: object) -> str:
    """Return a text for a message: the value if it is a number, otherwise the name of its type."""
    try:
        return str(value) if isinstance(value, Real) else f"a value of type {type(value).__name__}"
    except ValueError:  # Python refuses to print integers of more than 4300 digits
        return "a number of thousands of digits"
