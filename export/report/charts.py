"""Layout of the report's charts, in units of an SVG viewBox; templates/macros.html draws them.

Series differ by shape and colour, so that a chart can be read without colours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from .chart_scales import Scale

# Width of a chart in units. On a phone, too, a unit is about one pixel.
WIDTH = 380
HEIGHT = 220  # height of a plot
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 28, 34  # margins around the plot area, for labels
LIMIT_NAMES = 88  # right margin of a plot with limits, for the names of the limits
BAR_HEIGHT = 30  # height of a row of a bar chart
BAR_NAMES = 104  # left margin of a bar chart, for the names of the rows
MAX_NAME_CHARS = 15  # length of a row's name; longer names are cut
LABEL_HEIGHT = 13
# Marks as SVG paths around their centre.
SHAPES = {
    "circle": "m-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0",
    "square": "m-3.5,-3.5h7v7h-7z",
    "triangle": "m0,-4.5l4.5,8h-9z",
    "diamond": "m0,-5l5,5l-5,5l-5,-5z",
}


@dataclass(frozen=True)
class Series:
    """Shape, colour and name that the marks of a series of values share."""

    name: str
    path: str  # a value of SHAPES
    colour: int  # 0 to 3, see report.css
    filled: bool


@dataclass(frozen=True)
class Mark:
    """Mark of a value.

    `x` and `y` are values until `plot` or `bar_chart` lays out the chart. After that they are positions in
    units of the chart's viewBox.
    """

    series: Series
    x: float
    y: float
    title: str  # tooltip
    failed: bool  # drawn crossed out


# Limits of the values in a chart, by the name that the chart shows; each limit is drawn as a dashed line.
LimitLines = Mapping[str, float]


@dataclass(frozen=True)
class Bar:
    """Row of a bar chart: marks whose `y` is their value on the horizontal axis of the chart."""

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
    y: float  # vertical position of the baseline
    anchor: str = "start"  # start, middle or end
    kind: str = "axis"  # class in report.css


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
        """Series of each inner sequence of `marks`, for a legend."""
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
    """Return a chart of marks over a horizontal axis; a line joins the marks of each group."""
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
    """Return a chart with one row per bar and one horizontal axis.

    The line of a limit crosses only the rows of the bars that have this limit.
    """
    left, right = BAR_NAMES + RIGHT, WIDTH - RIGHT
    centre = (left + right) / 2

    def across(value: float) -> float:
        return left + scale.position(value) * (right - left)

    # The name of a limit starts or ends at its line. The names are above each other, so they do not overlap.
    limits = {name: across(value) for bar in bars for name, value in bar.limits.items()}
    top = TOP + LABEL_HEIGHT * max(len(limits) - 1, 0)
    bottom = top + BAR_HEIGHT * len(bars)
    labels = [
        Label(name, x, 20 + LABEL_HEIGHT * level, "end" if x > centre else "start", "limit")
        for level, (name, x) in enumerate(limits.items())
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
    """Return a text of at most `max_chars` characters; a longer text is cut and ends with an ellipsis."""
    return text if len(text) <= max_chars else f"{text[: max_chars - 1]}…"


def _spread(baselines: Sequence[float], last: float) -> list[float]:
    """Return ascending baselines moved at least LABEL_HEIGHT apart, with none after `last`."""
    spread = list(accumulate(baselines, lambda above, baseline: max(baseline, above + LABEL_HEIGHT)))
    return [
        min(baseline, last - LABEL_HEIGHT * (len(spread) - 1 - index))
        for index, baseline in enumerate(spread)
    ]
