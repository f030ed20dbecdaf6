"""Of the validation report: how far numbers are off, by graph and by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..validation.measures import Comparison, Difference, Limits
from .chart_scales import LinearScale, log_scale, power
from .charts import Bar, Limit, Point, Series, bars, legend, plot
from .grouping import by_layer, by_output, largest
from .html_markup import Markup, joined, table, tag

FAILED = "over its limit"


@dataclass(frozen=True)
class Measure:
    """One of the two ways in which a tensor is off."""

    word: str
    field: str  # of Difference
    limit: str  # of Limits
    look: Series  # of a mark

    def most(self, group: Sequence[Difference]) -> float:
        """The largest of a group; what is no number is infinitely large."""
        values = [float(getattr(one, self.field)) for one in group]
        return math.inf if any(map(math.isnan, values)) else max(values)

    def point(self, name: str, x: float, group: Sequence[Difference]) -> Point:
        """The largest of a group, to be drawn."""
        passed = all(getattr(one, self.field) <= getattr(one.limits, self.limit) for one in group)
        value = self.most(group)
        return Point(x, value, f"{name}, {self.word}: {words_of(value)}", failed=not passed)


WORST = Measure(
    "worst",
    "relative",
    "worst",
    Series("worst: the largest error, as a share of the largest value", "diamond", 1, True, ()),
)
TYPICAL = Measure(
    "typical",
    "rms",
    "rms",
    Series(
        "typical: the root mean square of the errors, as a share of that of the values",
        "circle",
        0,
        False,
        (),
    ),
)


def errors(comparison: Comparison) -> Markup:
    """Both sections."""
    if not comparison.differences:
        return Markup("")
    return joined(_by_graph(comparison), _by_layer(comparison))


def _by_graph(comparison: Comparison) -> Markup:
    groups, exact = by_output(comparison.differences), comparison.exact
    rows = [
        Bar(name, tuple((one.look, one.point(name, 0, group)) for one in (TYPICAL, WORST)))
        for name, group in groups.items()
    ]
    limits = _limits(comparison.differences)
    scale = log_scale([*_values(comparison.differences), *(limit.value for limit in limits)])
    chart = bars("Errors by graph and output", "share of the reference, log scale", rows, scale, limits)
    cells = [
        (
            name,
            number(one.worst),
            number(one.relative),
            number(one.rms),
            _allowed(one.limits),
            f"{one.stage} {one.name} {list(one.where)}",
            verdict(all(part.passed for part in group)),
        )
        for name, group in groups.items()
        for one in [largest(group, exact=exact)]
    ]
    columns = ("output", "worst, absolute", "worst", "typical", "allowed", "where it is worst", "verdict")
    return tag(
        "section",
        tag("h2", "Errors by graph"),
        tag("p", "Each graph got the reference's own inputs, so that an error shows where it arises."),
        legend((WORST.look, TYPICAL.look), FAILED),
        tag("div", chart, class_="charts"),
        table("Of each output the tensor that is farthest off", columns, cells),
    )


def _by_layer(comparison: Comparison) -> Markup:
    charts, tables, limits = [], [], _limits(comparison.differences)
    series: list[Series] = []
    for graph, kinds in by_layer(comparison.differences).items():
        inside = [one for layers in kinds.values() for group in layers.values() for one in group]
        series = [
            _layers(kind, layers, measure) for kind, layers in kinds.items() for measure in (WORST, TYPICAL)
        ]
        numbers = [layer for layers in kinds.values() for layer in layers]
        x = LinearScale(min(numbers), max(numbers))
        y = log_scale([*_values(inside), *(limit.value for limit in limits)])
        charts.append(plot(f"{graph}: errors by layer", "layer", "share, log scale", series, x, y, limits))
        cells = [
            (f"{layer} {name}", number(WORST.most(group)), number(TYPICAL.most(group)))
            for name, layers in kinds.items()
            for layer, group in layers.items()
        ]
        tables.append(table(f"{graph}: the cache by layer", ("layer", "worst", "typical"), cells))
    if not charts:
        return Markup("")
    return tag(
        "section",
        tag("h2", "Errors by layer"),
        tag("p", "Keys and values that each layer puts into the cache; of decode, the worst of all steps."),
        legend(series, FAILED),
        tag("div", *charts, class_="charts"),
        tag("details", tag("summary", "The same in numbers"), *tables),
    )


def number(value: float) -> Markup:
    """What `words_of` says, on one line."""
    return tag("span", words_of(value), class_="number")


def words_of(value: float) -> str:
    """Short, and in words where it is no finite number."""
    return f"{value:.2e}" if math.isfinite(value) else "not finite"


def verdict(passed: bool) -> Markup:
    """A word that is coloured, too."""
    return tag("span", "passed" if passed else "FAILED", class_="good" if passed else "bad")


def _layers(kind: str, layers: Mapping[int, list[Difference]], measure: Measure) -> Series:
    points = (measure.point(f"layer {layer} {kind}", layer, group) for layer, group in sorted(layers.items()))
    shape, colour = ("square", 2) if kind == "value" else ("circle", 0)
    return Series(f"{kind}, {measure.word}", shape, colour, measure.look.filled, tuple(points))


def _values(differences: Sequence[Difference]) -> list[float]:
    return [value for one in differences for value in (one.relative, one.rms)]


def _limits(differences: Sequence[Difference]) -> list[Limit]:
    """The limits that all differences have; one where both are the same."""
    worst = {one.limits.worst for one in differences if math.isfinite(one.limits.worst)}
    typical = {one.limits.rms for one in differences if math.isfinite(one.limits.rms)}
    if worst == typical:
        return [Limit(value, f"limit {power(value)}") for value in sorted(worst)]
    return [
        *(Limit(value, f"limit of worst {power(value)}") for value in sorted(worst)),
        *(Limit(value, f"limit of typical {power(value)}") for value in sorted(typical)),
    ]


def _allowed(limits: Limits) -> str:
    worst, typical = (power(limit) if math.isfinite(limit) else "any" for limit in (limits.worst, limits.rms))
    return worst if worst == typical else f"worst {worst}, typical {typical}"
