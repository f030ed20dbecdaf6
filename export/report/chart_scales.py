"""Where a number stands on an axis, as a share of the axis' length."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

MOST_LABELS = 6  # on an axis; more would touch each other on a telephone
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
SMALLEST = 1e-18  # what is smaller is drawn as nothing


def power(value: float) -> str:
    """A round number for a reader: 1e-4 as 10⁻⁴, others as they are."""
    exponent = math.log10(value)
    whole = round(exponent)
    return f"10{str(whole).translate(SUPERSCRIPT)}" if abs(exponent - whole) < 1e-9 else f"{value:g}"


class Scale(Protocol):
    """An axis."""

    def share(self, value: float) -> float:
        """0 at the beginning of the axis, 1 at its end."""

    def ticks(self) -> list[tuple[float, str]]:
        """Share and label of the marks on it."""


@dataclass(frozen=True)
class LinearScale:
    """Whole numbers from the first to the last."""

    first: int
    last: int

    def share(self, value: float) -> float:
        """Its middle where first and last are the same."""
        span = self.last - self.first
        return (value - self.first) / span if span else 0.5

    def ticks(self) -> list[tuple[float, str]]:
        """At most a handful."""
        every = max(1, math.ceil((self.last - self.first) / (MOST_LABELS - 1)))
        return [(self.share(value), str(value)) for value in range(self.first, self.last + 1, every)]


@dataclass(frozen=True)
class LogScale:
    """Powers of ten, and at either end a place for what has no logarithm."""

    low: int  # 10 ** low is the smallest power
    high: int
    zero: bool  # there is a place for 0, one power below
    infinite: bool  # there is one for what is no finite number, one power above

    @property
    def _ends(self) -> tuple[int, int]:
        return self.low - self.zero, self.high + self.infinite

    def share(self, value: float) -> float:
        """What is no number is at the end, as infinity is."""
        first, last = self._ends
        if not math.isfinite(value):
            return 1.0
        if value < SMALLEST:
            return 0.0
        return min(max((math.log10(value) - first) / (last - first), 0.0), 1.0)

    def ticks(self) -> list[tuple[float, str]]:
        """Powers of ten, all or every so many."""
        every = max(1, math.ceil((self.high - self.low) / (MOST_LABELS - 1)))
        powers = [10.0**exponent for exponent in range(self.high, self.low - 1, -every)]
        ticks = [(self.share(value), power(value)) for value in powers]
        ticks += [(0.0, "0")] * self.zero + [(1.0, "∞")] * self.infinite
        return ticks


def log_scale(values: Iterable[float]) -> LogScale:
    """The scale that holds all values; limits belong to them, so that they are drawn, too."""
    given = list(values)
    finite = [math.log10(value) for value in given if math.isfinite(value) and value >= SMALLEST]
    low, high = math.floor(min(finite, default=-1.0)), math.ceil(max(finite, default=0.0))
    return LogScale(
        low=low,
        high=max(high, low + 1),
        zero=any(value < SMALLEST for value in given),
        infinite=not all(map(math.isfinite, given)),
    )
