"""From the logits of one step to one token id: greedy, or drawn after temperature, top-k and top-p.

No full sort of the vocabulary: top-k is one selection (introselect), top-p a weighted quickselect on the
weights that can matter. What a step costs is linear in V: at V = 257,216 on one core of a server (AMD EPYC)
greedy takes 0.02 ms, top-k 1.5 to 3 ms, top-p 0.5 ms on peaked logits and 8 ms on flat ones.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from numbers import Integral, Real

import numpy as np
from numpy.typing import NDArray

from ..errors import NumericsError, OptionError

SEEDS = 2**64  # a seed is one unsigned 64-bit word
_Weigh = Callable[[NDArray[np.float32]], NDArray[np.float64]]
_SORTED = 64  # weights; fewer than this are sorted rather than halved again


@dataclass(frozen=True)
class SamplingOptions:
    """How the next token is chosen.

    Raises:
        OptionError: a value is outside its range; the message names the option and the range.
    """

    temperature: float = 0.0  # 0: always the likeliest token; else logits are divided by it
    top_k: int = 0  # tokens kept, the likeliest ones; 0: all
    top_p: float = 1.0  # probability mass kept, of what top_k left (nucleus, arXiv 1904.09751, section 3.1)
    seed: int | None = None  # None: a fresh one for each request

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        if not 0 <= _number(self.temperature) < math.inf:
            raise OptionError(f"temperature must be a finite number >= 0, not {_shown(self.temperature)}")
        if not (_is_whole(self.top_k) and self.top_k >= 0):
            raise OptionError(f"top_k must be a whole number >= 0 (0 keeps all), not {_shown(self.top_k)}")
        if not 0 < _number(self.top_p) <= 1:
            raise OptionError(f"top_p must be a number > 0 and <= 1, not {_shown(self.top_p)}")
        if self.seed is not None and not (_is_whole(self.seed) and 0 <= self.seed < SEEDS):
            raise OptionError(f"seed must be a whole number from 0 to 2**64 - 1, not {_shown(self.seed)}")

    @property
    def is_greedy(self) -> bool:
        """Nothing is drawn: the likeliest token is taken."""
        return float(self.temperature) == 0


def sample(
    logits: NDArray[np.float32],
    options: SamplingOptions,
    rng: np.random.Generator,
    suppressed: NDArray[np.int64] | None = None,
) -> int:
    """Token id chosen from `logits`, float32[V], left as they are; none of `suppressed`, int64[S], is chosen.

    Greedy takes the lowest id among equals and draws nothing from `rng`; all else draws exactly one number.

    Raises:
        NumericsError: a logit is NaN or +inf, or none is finite.
    """
    if options.is_greedy:
        return _likeliest(logits, suppressed)
    ids, weights = candidates(logits, options, suppressed)
    reach = np.cumsum(weights, out=weights)
    # Always inside: u <= 1 - 2**-53 keeps u * total below the total, which is 1 (the peak's weight) or more.
    return int(ids[np.searchsorted(reach, rng.random() * reach[-1], side="right")])


def candidates(
    logits: NDArray[np.float32],
    options: SamplingOptions,
    suppressed: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Ids the filters leave, int64[C] ascending, and their unnormalised probabilities, float64[C].

    Temperature (> 0) first, then top-k, then top-p on what top-k left, as transformers' warpers do. Among
    equals at the boundary of top-k or top-p the lowest ids stay: exactly k remain, and top_k=1 is greedy
    (transformers keeps all equals at top-k's boundary, and arbitrary ones at top-p's). A suppressed id may be
    among those returned where nothing filters it out; its weight is 0.

    Weights and their sums are float64: over V = 257,216 terms such a sum is off by 3e-11 of it at most (V *
    2**-53), far below any top_p worth typing, while a running float32 sum may lose 1 % and move the cut.

    Raises:
        NumericsError: a logit is NaN or +inf, or none is finite.
    """
    peak = logits[_likeliest(logits, suppressed)]
    if suppressed is not None:
        logits = _without(logits, suppressed)
    ids = _largest(logits, options.top_k) if 0 < options.top_k < logits.size else None
    kept = logits if ids is None else logits[ids]
    weigh = partial(_weigh, peak=peak, temperature=float(options.temperature))
    weights = weigh(kept)
    if options.top_p < 1:
        inside = _nucleus(kept, weights, float(options.top_p), weigh)
        return (inside if ids is None else ids[inside]), weights[inside]
    return (np.arange(logits.size, dtype=np.int64) if ids is None else ids), weights


def rng_for(seed: int, row: int) -> np.random.Generator:
    """Random numbers of row `row` of a batch: those of a request alone with seed `seed + row` (mod 2**64)."""
    return np.random.Generator(np.random.PCG64((int(seed) + row) % SEEDS))


def random_seed() -> int:
    """Return a seed nobody chose, from the operating system."""
    return secrets.randbits(64)


def _likeliest(logits: NDArray[np.float32], suppressed: NDArray[np.int64] | None) -> int:
    """Lowest id of the largest logit that is not suppressed; one pass unless a suppressed one leads."""
    best = int(logits.argmax())  # NaN counts as largest, so this one value tells of NaN and +inf anywhere
    _check(float(logits[best]))
    if suppressed is not None and best in suppressed:
        logits = _without(logits, suppressed)
        best = int(logits.argmax())
        _check(float(logits[best]))
    return best


def _check(peak: float) -> None:
    """Refuse logits whose largest is not a finite number."""
    if not math.isfinite(peak):
        answer = "NaN logits" if math.isnan(peak) else "an infinite logit" if peak > 0 else "no finite logit"
        raise NumericsError(
            f"the graphs answered with {answer}: numbers overflowed; use precision fp32 or bf16 instead"
        )


def _without(logits: NDArray[np.float32], suppressed: NDArray[np.int64]) -> NDArray[np.float32]:
    """Copy of the logits, float32[V], with -inf at the suppressed ids."""
    masked = logits.copy()
    masked[suppressed] = -np.inf
    return masked


def _largest(logits: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Ids of the `count` largest logits, int64[count] ascending, the lowest ids among equals."""
    boundary = np.partition(logits, logits.size - count)[logits.size - count]
    return _above(logits, boundary, count)


def _weigh(logits: NDArray[np.float32], *, peak: np.float32, temperature: float) -> NDArray[np.float64]:
    """Softmax weights exp((logit - peak) / temperature), float64[N], the peak's being 1."""
    weights = logits.astype(np.float64)
    # In place: at this size the pages of a fresh array cost ten times the arithmetic.
    with np.errstate(over="ignore", under="ignore"):  # a tiny temperature: all but the peak are exp(-inf) = 0
        weights -= peak
        weights /= temperature
        return np.exp(weights, out=weights)


def _nucleus(
    logits: NDArray[np.float32], weights: NDArray[np.float64], top_p: float, weigh: _Weigh
) -> NDArray[np.int64]:
    """Positions of the smallest set whose weights reach `top_p` of the total, int64[C] ascending, C >= 1.

    The N weights below (1 - top_p) * total / N hold less than 1 - top_p together: the set needs none of them.
    The others are halved at their median, going on in the half with the boundary: N + N/2 + ... = 2 N steps.
    It is the logits that are ranked, for weights of different logits may round to equals.
    """
    total = weights.sum()
    goal = top_p * total
    # Half the bound, so that rounding in the sums cannot make it too high.
    undecided = logits[weights >= 0.5 * (1 - top_p) * total / weights.size]
    reached, inside = 0.0, 0
    while undecided.size > _SORTED:
        half = undecided.size // 2
        undecided.partition(half)
        lower, upper = undecided[:half], undecided[half:]
        reached_with_upper = reached + weigh(upper).sum()
        if reached_with_upper >= goal:
            undecided = upper
        else:
            reached, inside, undecided = reached_with_upper, inside + upper.size, lower
    ordered = np.sort(undecided)[::-1]
    last = min(int(np.searchsorted(reached + np.cumsum(weigh(ordered)), goal)), ordered.size - 1)
    return _above(logits, ordered[last], inside + last + 1)


def _above(logits: NDArray[np.float32], boundary: np.float32, count: int) -> NDArray[np.int64]:
    """Positions of the `count` largest logits, down to `boundary`; int64[count] ascending."""
    positions = np.flatnonzero(logits >= boundary)
    surplus = positions.size - count
    if surplus:
        equals = np.flatnonzero(logits[positions] == boundary)
        positions = np.delete(positions, equals[equals.size - surplus :])
    return positions


def _number(value: object) -> float:
    """`value` as a float; NaN, which is in no range, where it is no real number or too large for one."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def _is_whole(value: object) -> bool:
    """Is `value` an integer (True and False are not)?"""
    return isinstance(value, Integral) and not isinstance(value, bool)


def _shown(value: object) -> str:
    """`value` as a message shows it: numbers as they are, of anything else the type."""
    try:
        return str(value) if isinstance(value, Real) else f"a value of type {type(value).__name__}"
    except ValueError:  # Python refuses to print integers of more than 4300 digits
        return "a number of thousands of digits"
