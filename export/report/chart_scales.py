"""Linear and logarithmic axis scales: value -> position in [0, 1], and tick labels."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

MAX_TICKS = 6  # per axis; more labels would touch each other on a phone
MIN_GAP = 0.09  # between the ticks of 0 or infinity and of a power, as a share of the axis
MIN_VALUE = 1e-18  # smaller values are drawn as 0
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def format_power(exponent: int) -> str:
    """Format a power of ten as 10⁻⁴."""
    return f"10{str(exponent).translate(SUPERSCRIPT)}"


def format_limit(value: float) -> str:
    """Format a limit: small powers of ten as such, others in decimal notation, infinity as "none"."""
    if not math.isfinite(value):
        return "none"
    exponent = round(math.log10(value))
    return format_power(exponent) if exponent <= -3 and value == 10.0**exponent else f"{value:g}"


@dataclass(frozen=True)
class LinearScale:
    """Axis of whole numbers from 0."""

    last: int

    def position(self, value: float) -> float:
        """Return 0 for 0 and 1 for `last`, or 0.5 if `last` is 0."""
        return value / self.last if self.last else 0.5

    def ticks(self) -> list[tuple[float, str]]:
        """Return position and label of at most MAX_TICKS ticks."""
        step = max(1, math.ceil(self.last / (MAX_TICKS - 1)))
        return [(self.position(value), str(value)) for value in range(0, self.last + 1, step)]


@dataclass(frozen=True)
class LogScale:
    """Axis of powers of ten, with a place at either end for values that have no logarithm."""

    low: int  # exponent of the smallest power
    high: int  # exponent of the largest power
    zero: bool  # 0 has a place, one decade below `low`
    infinite: bool  # infinity and NaN have a place, one decade above `high`

    def position(self, value: float) -> float:
        """Return the position of a value; NaN is at the end, as infinity is."""
        first, last = self.low - self.zero, self.high + self.infinite
        if not math.isfinite(value):
            return 1.0
        if value < MIN_VALUE:
            return 0.0
        return min(max((math.log10(value) - first) / (last - first), 0.0), 1.0)

    def ticks(self) -> list[tuple[float, str]]:
        """Return position and label of ticks at powers of ten, 0 and infinity."""
        step = max(1, math.ceil((self.high - self.low) / (MAX_TICKS - 1)))
        powers = range(self.high, self.low - 1, -step)
        ends = [(0.0, "0")] * self.zero + [(1.0, "∞")] * self.infinite
        ticks = [(self.position(10.0**exponent), format_power(exponent)) for exponent in powers]
        return ends + [tick for tick in ticks if all(abs(tick[0] - end) >= MIN_GAP for end, _ in ends)]


Scale = LinearScale | LogScale


def log_scale(values: Iterable[float]) -> LogScale:
    """Return a scale with a place for each value; include limits, so that they can be drawn."""
    values = list(values)
    exponents = [math.log10(value) for value in values if math.isfinite(value) and value >= MIN_VALUE]
    low, high = math.floor(min(exponents, default=-1.0)), math.ceil(max(exponents, default=0.0))
    return LogScale(
        low=low,
        high=max(high, low + 1),
        zero=any(value < MIN_VALUE for value in values),
        infinite=not all(map(math.isfinite, values)),
    )
