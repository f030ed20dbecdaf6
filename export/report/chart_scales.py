"""Linear and logarithmic axis scales, which map values to positions in [0, 1] and provide tick labels."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

MAX_TICKS = 6  # maximum number of ticks per axis; more labels would touch each other on a phone
# Minimum distance from the tick of 0 or infinity to the nearest tick of a power, as a share of the axis.
MIN_GAP = 0.09
MIN_VALUE = 1e-18  # smaller values are drawn as 0
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def format_power(exponent: int) -> str:
    """Return a power of ten as text: 10⁻⁴ for the exponent -4."""
    return f"10{str(exponent).translate(SUPERSCRIPT)}"


def format_limit(value: float) -> str:
    """Return a limit as text: a small power of ten as 10⁻⁴, infinity as "none", other numbers as decimals."""
    if not math.isfinite(value):
        return "none"
    exponent = round(math.log10(value))
    return format_power(exponent) if exponent <= -3 and value == 10.0**exponent else f"{value:g}"


@dataclass(frozen=True)
class LinearScale:
    """Axis of whole numbers from 0 to `last`."""

    last: int

    def position(self, value: float) -> float:
        """Return the position of a value: `value / last`, or 0.5 if `last` is 0."""
        return value / self.last if self.last else 0.5

    def ticks(self) -> list[tuple[float, str]]:
        """Return the ticks, at most MAX_TICKS, as pairs of position and label."""
        step = max(1, math.ceil(self.last / (MAX_TICKS - 1)))
        return [(self.position(value), str(value)) for value in range(0, self.last + 1, step)]


@dataclass(frozen=True)
class LogScale:
    """Axis of powers of ten. An end of the axis can have a place for values without a finite logarithm."""

    low: int  # exponent of the smallest power
    high: int  # exponent of the largest power
    zero: bool  # 0 has a place, one decade below `low`
    infinite: bool  # infinity and NaN have a place, one decade above `high`

    def position(self, value: float) -> float:
        """Return the position of a value. NaN and infinity are at the end of the axis."""
        first, last = self.low - self.zero, self.high + self.infinite
        if not math.isfinite(value):
            return 1.0
        if value < MIN_VALUE:
            return 0.0
        return min(max((math.log10(value) - first) / (last - first), 0.0), 1.0)

    def ticks(self) -> list[tuple[float, str]]:
        """Return the ticks at powers of ten, 0 and infinity, as pairs of position and label."""
        step = max(1, math.ceil((self.high - self.low) / (MAX_TICKS - 1)))
        powers = range(self.high, self.low - 1, -step)
        ends = [(0.0, "0")] * self.zero + [(1.0, "∞")] * self.infinite
        ticks = [(self.position(10.0**exponent), format_power(exponent)) for exponent in powers]
        return ends + [tick for tick in ticks if all(abs(tick[0] - end) >= MIN_GAP for end, _ in ends)]


Scale = LinearScale | LogScale


def log_scale(values: Iterable[float]) -> LogScale:
    """Return a scale that has a place for each of `values`, which must include the limits to be drawn."""
    values = list(values)
    exponents = [math.log10(value) for value in values if math.isfinite(value) and value >= MIN_VALUE]
    low, high = math.floor(min(exponents, default=-1.0)), math.ceil(max(exponents, default=0.0))
    return LogScale(
        low=low,
        high=max(high, low + 1),
        zero=any(value < MIN_VALUE for value in values),
        infinite=not all(map(math.isfinite, values)),
    )
