"""Charts of the validation report: SVG that scales with the page, readable without colours."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from .chart_scales import Scale
from .html_markup import Markup, tag

# Units of a viewBox; a chart is drawn about as wide in pixels, on a telephone too.
WIDTH = 380
HEIGHT = 220
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 28, 34  # around the plot, for labels
ROW = 30  # of a bar chart's row
NAMES = 104  # left of a row, for its name
LABEL_CHARS = 15  # that fit there
# Marks, as paths around their middle; series differ by shape first, by colour besides.
SHAPES = {
    "circle": "m-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0",
    "square": "m-3.5,-3.5h7v7h-7z",
    "triangle": "m0,-4.5l4.5,8h-9z",
    "diamond": "m0,-5l5,5l-5,5l-5,-5z",
}
CROSS = "m-5,-5l10,10m0,-10l-10,10"  # over a mark that failed


@dataclass(frozen=True)
class Point:
    """One value."""

    x: float
    y: float
    title: str  # shown when it is pointed at
    failed: bool = False


@dataclass(frozen=True)
class Series:
    """Values that belong together."""

    name: str
    shape: str  # a name in SHAPES
    colour: int  # 0 to 3: the style sheet's
    filled: bool
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Limit:
    """A value that others may not pass."""

    value: float
    name: str


@dataclass(frozen=True)
class Bar:
    """A row of a bar chart: one name, some values on the same axis."""

    name: str
    marks: tuple[tuple[Series, Point], ...]  # of a point only y counts


def plot(
    title: str,
    x_name: str,
    y_name: str,
    series: Sequence[Series],
    x: Scale,
    y: Scale,
    limits: Iterable[Limit],
) -> Markup:
    """Points over a horizontal axis, those of a series joined by a line."""
    wide, tall = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def across(share: float) -> float:
        return LEFT + share * wide

    def down(share: float) -> float:
        return TOP + (1 - share) * tall

    parts = [tag("text", y_name, x=4, y=12)]
    for share, label in y.ticks():
        parts += [_line(LEFT, down(share), WIDTH - RIGHT, down(share), "grid")]
        parts += [tag("text", label, x=LEFT - 6, y=down(share) + 4, text_anchor="end")]
    for share, label in x.ticks():
        parts.append(tag("text", label, x=across(share), y=HEIGHT - BOTTOM + 15, text_anchor="middle"))
    parts.append(tag("text", x_name, x=LEFT + wide / 2, y=HEIGHT - 4, text_anchor="middle"))
    for limit in limits:
        height = down(y.share(limit.value))
        parts += [_line(LEFT, height, WIDTH - RIGHT, height, "limit")]
        parts += [tag("text", limit.name, x=WIDTH - RIGHT, y=height - 4, text_anchor="end", class_="limit")]
    for one in series:
        places = [(across(x.share(point.x)), down(y.share(point.y)), point) for point in one.points]
        steps = [f"{left:.1f},{top:.1f}" for left, top, _ in places]
        if len(steps) > 1:
            parts.append(tag("path", d="M" + "L".join(steps), class_=f"join c{one.colour}"))
        parts += [mark(one, point, left, top) for left, top, point in places]
    return _chart(title, HEIGHT, parts)


def bars(title: str, axis: str, rows: Sequence[Bar], scale: Scale, limits: Iterable[Limit]) -> Markup:
    """A row for each name, with its values on one horizontal axis."""
    wide, bottom = WIDTH - NAMES - 2 * RIGHT, TOP + ROW * len(rows)

    def across(share: float) -> float:
        return NAMES + RIGHT + share * wide

    parts = [tag("text", axis, x=across(0.5), y=bottom + 32, text_anchor="middle")]
    for share, label in scale.ticks():
        parts += [_line(across(share), TOP, across(share), bottom, "grid")]
        parts += [tag("text", label, x=across(share), y=bottom + 15, text_anchor="middle")]
    for limit in limits:
        place = across(scale.share(limit.value))
        anchor = "end" if scale.share(limit.value) > 0.5 else "start"
        parts += [_line(place, TOP - 4, place, bottom, "limit")]
        parts += [tag("text", limit.name, x=place, y=TOP - 8, text_anchor=anchor, class_="limit")]
    for number, row in enumerate(rows):
        middle = TOP + ROW * (number + 0.5)
        name = row.name if len(row.name) <= LABEL_CHARS else f"{row.name[: LABEL_CHARS - 1]}…"
        places = [(across(scale.share(point.y)), one, point) for one, point in row.marks]
        parts.append(tag("text", name, x=4, y=middle + 4))
        parts += [_line(start, middle, end, middle, "span") for start, end in pairwise(p for p, *_ in places)]
        parts += [mark(one, point, place, middle) for place, one, point in places]
    return _chart(title, bottom + 38, parts)


def legend(series: Iterable[Series], failed: str) -> Markup:
    """What the marks mean."""
    items = [(one, Point(0, 0, one.name), one.name) for one in series]
    crossed = Series("", "circle", 0, filled=False, points=())
    items += [(crossed, Point(0, 0, failed, failed=True), failed)]
    return tag(
        "ul",
        *(tag("li", _glyph(one, point), " ", name) for one, point, name in items),
        class_="legend",
    )


def mark(one: Series, point: Point, left: float, top: float) -> Markup:
    """A mark in its series' shape, crossed out where it failed."""
    place = f"M{left:.1f},{top:.1f}"
    shape = tag("path", d=place + SHAPES[one.shape], class_=f"c{one.colour}{' filled' if one.filled else ''}")
    cross = [tag("path", d=place + CROSS, class_="failed")] if point.failed else []
    return tag("g", tag("title", point.title), shape, *cross, class_="mark")


def _glyph(one: Series, point: Point) -> Markup:
    return tag("svg", mark(one, point, 8, 8), viewBox="0 0 16 16", class_="glyph", aria_hidden="true")


def _line(left: float, top: float, right: float, bottom: float, kind: str) -> Markup:
    return tag("line", x1=left, y1=top, x2=right, y2=bottom, class_=kind)


def _chart(title: str, height: float, parts: Sequence[Markup]) -> Markup:
    drawn = tag(
        "svg",
        tag("title", title),
        *parts,
        viewBox=f"0 0 {WIDTH} {math.ceil(height)}",
        role="img",
        aria_label=title,
    )
    return tag("figure", tag("figcaption", title), drawn, class_="chart")
