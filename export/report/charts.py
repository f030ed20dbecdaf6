"""Layout of the report's charts, in units of an SVG viewBox; templates/macros.html draws them.

Series differ by shape and colour, so that a chart can be read without colours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

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
class Point:
    """A value in a chart."""

    x: float
    y: float
    title: str  # tooltip
    failed: bool = False  # drawn crossed out


@dataclass(frozen=True)
class Series:
    """Values with a common mark."""

    name: str
    shape: str  # key of SHAPES
    colour: int  # 0 to 3, see report.css
    filled: bool
    points: tuple[Point, ...] = ()

    @property
    def path(self) -> str:
        """SVG path of the mark, relative to its centre."""
        return SHAPES[self.shape]


@dataclass(frozen=True)
class Limit:
    """Value that others should not exceed, drawn as a dashed line."""

    value: float
    name: str


@dataclass(frozen=True)
class Bar:
    """Row of a bar chart: marks on a common axis, at the `y` of their points."""

    name: str
    marks: tuple[tuple[Series, Point], ...]
    limits: tuple[Limit, ...]


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
class Mark:
    """Mark of a point at its place in a chart."""

    series: Series
    point: Point
    x: float
    y: float


@dataclass(frozen=True)
class Chart:
    """Elements of a chart, in units of its viewBox."""

    title: str
    height: int
    lines: Sequence[Line]
    labels: Sequence[Label]
    marks: Sequence[Sequence[Mark]]  # a line joins the marks of each inner sequence
    width: int = WIDTH


def plot(
    title: str,
    x_name: str,
    y_name: str,
    series: Iterable[Series],
    x: Scale,
    y: Scale,
    limits: Iterable[Limit] = (),
) -> Chart:
    """Lay out a chart of points over a horizontal axis."""
    limits = list(limits)
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
    limit_lines = sorted((bottom - y.position(limit.value) * height, limit.name) for limit in limits)
    baselines = _spread([line + 4 for line, _ in limit_lines], bottom)
    for (line, name), baseline in zip(limit_lines, baselines, strict=True):
        lines.append(Line(LEFT, line, right, line, "limit"))
        labels.append(Label(name, right + 4, baseline, kind="limit"))
    marks = [
        [
            Mark(group, point, LEFT + x.position(point.x) * width, bottom - y.position(point.y) * height)
            for point in group.points
        ]
        for group in series
    ]
    return Chart(title, HEIGHT, lines, labels, marks)


def bar_chart(title: str, axis: str, bars: Sequence[Bar], scale: Scale) -> Chart:
    """Lay out a chart of one row per bar, on one horizontal axis; limit lines cross their own rows only."""
    left, right = BAR_NAMES + RIGHT, WIDTH - RIGHT
    centre = (left + right) / 2

    def across(value: float) -> float:
        return left + scale.position(value) * (right - left)

    # The name of a limit starts or ends at its line; names that would overlap are put above each other.
    limits = {limit: across(limit.value) for bar in bars for limit in bar.limits}
    names = [Label(limit.name, x, 0, "end" if x > centre else "start") for limit, x in limits.items()]
    levels = _levels([name.span for name in names])
    top = TOP + LABEL_HEIGHT * max(levels, default=0)
    bottom = top + BAR_HEIGHT * len(bars)
    labels = [
        Label(name.text, name.x, top - 8 - LABEL_HEIGHT * level, name.anchor, "limit")
        for name, level in zip(names, levels, strict=True)
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
        text = bar.name if len(bar.name) <= MAX_NAME_CHARS else f"{bar.name[: MAX_NAME_CHARS - 1]}…"
        labels.append(Label(text, 4, middle + 4))
        lines += [
            Line(limits[limit], start, limits[limit], start + BAR_HEIGHT, "limit") for limit in bar.limits
        ]
        row = [Mark(series, point, across(point.y), middle) for series, point in bar.marks]
        lines += [Line(before.x, middle, after.x, middle, "span") for before, after in pairwise(row)]
        marks += [[mark] for mark in row]
    return Chart(title, math.ceil(bottom + 38), lines, labels, marks)


def _spread(baselines: Sequence[float], last: float) -> list[float]:
    """Move ascending baselines apart by LABEL_HEIGHT at least; none comes after `last`."""
    spread: list[float] = []
    for baseline in baselines:
        spread.append(max(baseline, spread[-1] + LABEL_HEIGHT) if spread else baseline)
    return [
        min(baseline, last - LABEL_HEIGHT * (len(spread) - 1 - index))
        for index, baseline in enumerate(spread)
    ]


def _levels(spans: Sequence[tuple[float, float]]) -> list[int]:
    """Return the lowest level for each span at which it does not overlap with another one."""
    levels = [0] * len(spans)
    ends: list[float] = []  # of the last span at each level
    for index in sorted(range(len(spans)), key=lambda index: spans[index]):
        start, end = spans[index]
        level = next((level for level, previous in enumerate(ends) if previous < start), len(ends))
        ends[level : level + 1] = [end]
        levels[index] = level
    return levels
