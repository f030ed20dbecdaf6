"""Layout of the report's charts, in units of an SVG viewBox; templates/macros.html draws them.

Series differ by shape and colour, so that a chart can be read without colours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from .chart_scales import Scale

# A chart is about as many pixels wide as units, on a phone too.
WIDTH = 380
HEIGHT = 220  # of a plot
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 28, 34  # margins around the plot area, for labels
LIMIT_NAMES = 88  # right margin of a plot with limits, for their names
BAR_HEIGHT = 30  # of a row of a bar chart
BAR_NAMES = 104  # left margin of a bar chart, for the names of the rows
MAX_NAME_CHARS = 15  # of a row's name; longer names are cut
LABEL_HEIGHT = 13
CHAR_WIDTH = 6  # of a label, estimated: 5.6 in DejaVu Sans, which is wide
# Marks as SVG paths around their centre.
SHAPES = {
    "circle": "m-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0",
    "square": "m-3.5,-3.5h7v7h-7z",
    "triangle": "m0,-4.5l4.5,8h-9z",
    "diamond": "m0,-5l5,5l-5,5l-5,-5z",
}


@dataclass(frozen=True)
class Series:
    """Look and name of the marks of some values."""

    name: str
    path: str  # of SHAPES
    colour: int  # 0 to 3, see report.css
    filled: bool


@dataclass(frozen=True)
class Mark:
    """Mark of a value; `x` and `y` are values before a chart is laid out, and units of its viewBox after."""

    series: Series
    x: float
    y: float
    title: str  # tooltip
    failed: bool  # drawn crossed out


# Values that others should not exceed, by the name shown; drawn as dashed lines.
LimitLines = Mapping[str, float]


@dataclass(frozen=True)
class Bar:
    """Row of a bar chart: marks on a common axis, at their `y`."""

    name: str
    marks: Sequence[Mark]
    limits: LimitLines


@dataclass(frozen=True)
class Line:
    """Straight line of a chart."""

    x1: float
    y1: float
    x2: float
    y2: float
    kind: str  # class in report.css


@dataclass(frozen=True)
class Label:
    """Text of a chart."""

    text: str
    x: float
    y: float  # of the baseline
    anchor: str = "start"  # start, middle or end
    kind: str = "axis"  # class in report.css

    @property
    def span(self) -> tuple[float, float]:
        """Horizontal extent, estimated from the number of characters."""
        length = CHAR_WIDTH * len(self.text)
        start = self.x - length * {"start": 0.0, "middle": 0.5, "end": 1.0}[self.anchor]
        return start, start + length


@dataclass(frozen=True)
class Chart:
    """Elements of a chart, in units of its viewBox."""

    title: str
    height: int
    lines: Sequence[Line]
    labels: Sequence[Label]
    marks: Sequence[Sequence[Mark]]  # a line joins the marks of each inner sequence
    width: int = WIDTH

    @property
    def series(self) -> list[Series]:
        """Series of the joined marks, for a legend."""
        return [marks[0].series for marks in self.marks]


def plot(
    title: str,
    x_name: str,
    y_name: str,
    groups: Sequence[Sequence[Mark]],
    x: Scale,
    y: Scale,
    limits: LimitLines,
) -> Chart:
    """Lay out a chart of marks over a horizontal axis; a line joins those of a group."""
    right, bottom = WIDTH - (LIMIT_NAMES if limits else RIGHT), HEIGHT - BOTTOM
    width, height = right - LEFT, bottom - TOP
    lines = []
    labels = [Label(y_name, 4, 12), Label(x_name, LEFT + width / 2, HEIGHT - 4, "middle")]
    for position, text in y.ticks():
        tick = bottom - position * height
        lines.append(Line(LEFT, tick, right, tick, "grid"))
        labels.append(Label(text, LEFT - 6, tick + 4, "end"))
    for position, text in x.ticks():
        labels.append(Label(text, LEFT + position * width, bottom + 15, "middle"))
    limit_lines = sorted((bottom - y.position(value) * height, name) for name, value in limits.items())
    baselines = _spread([line + 4 for line, _ in limit_lines], bottom)
    for (line, name), baseline in zip(limit_lines, baselines, strict=True):
        lines.append(Line(LEFT, line, right, line, "limit"))
        labels.append(Label(name, right + 4, baseline, kind="limit"))
    marks = [
        [
            replace(mark, x=LEFT + x.position(mark.x) * width, y=bottom - y.position(mark.y) * height)
            for mark in group
        ]
        for group in groups
    ]
    return Chart(title, HEIGHT, lines, labels, marks)


def bar_chart(title: str, axis: str, bars: Sequence[Bar], scale: Scale) -> Chart:
    """Lay out a chart of one row per bar, on one horizontal axis; limit lines cross their own rows only."""
    left, right = BAR_NAMES + RIGHT, WIDTH - RIGHT
    centre = (left + right) / 2

    def across(value: float) -> float:
        return left + scale.position(value) * (right - left)

    # The name of a limit starts or ends at its line; names that would overlap are put above each other.
    limits = {name: across(value) for bar in bars for name, value in bar.limits.items()}
    names = [Label(name, x, 0, "end" if x > centre else "start", "limit") for name, x in limits.items()]
    names.sort(key=lambda name: name.span)
    ends: list[float] = []  # of the last name at each level
    levels = []  # of the names, counted from the axis
    for start, end in (name.span for name in names):
        level = next((level for level, previous in enumerate(ends) if previous < start), len(ends))
        ends[level : level + 1] = [end]
        levels.append(level)
    top = TOP + LABEL_HEIGHT * max(levels, default=0)
    bottom = top + BAR_HEIGHT * len(bars)
    labels = [
        replace(name, y=top - 8 - LABEL_HEIGHT * level) for name, level in zip(names, levels, strict=True)
    ]
    labels.append(Label(axis, centre, bottom + 32, "middle"))
    lines, marks = [], []
    for position, text in scale.ticks():
        x = left + position * (right - left)
        lines.append(Line(x, top, x, bottom, "grid"))
        labels.append(Label(text, x, bottom + 15, "middle"))
    for number, bar in enumerate(bars):
        start = top + BAR_HEIGHT * number
        middle = start + BAR_HEIGHT / 2
        labels.append(Label(shorten(bar.name, MAX_NAME_CHARS), 4, middle + 4))
        lines += [Line(limits[name], start, limits[name], start + BAR_HEIGHT, "limit") for name in bar.limits]
        row = [replace(mark, x=across(mark.y), y=middle) for mark in bar.marks]
        lines += [Line(before.x, middle, after.x, middle, "span") for before, after in pairwise(row)]
        marks += [[mark] for mark in row]
    return Chart(title, math.ceil(bottom + 38), lines, labels, marks)


def shorten(text: str, max_chars: int) -> str:
    """Cut a text that is longer than `max_chars`."""
    return text if len(text) <= max_chars else f"{text[: max_chars - 1]}…"


def _spread(baselines: Sequence[float], last: float) -> list[float]:
    """Move ascending baselines apart by LABEL_HEIGHT at least; none comes after `last`."""
    spread = list(accumulate(baselines, lambda above, baseline: max(baseline, above + LABEL_HEIGHT)))
    return [
        min(baseline, last - LABEL_HEIGHT * (len(spread) - 1 - index))
        for index, baseline in enumerate(spread)
    ]
