"""Of the validation report: how far numbers are off, by graph and by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from .compare import Comparison, Difference, Limits
from .grouping import by_layer, by_output, largest
from .markup import Markup, joined, table, tag
from .report_charts import Bar, Limit, Point, Series, bars, legend, plot
from .report_scales import LinearScale, log_scale, power

WORST = "worst: the largest error, as a share of the largest value"
TYPICAL = "typical: the root mean square of the errors, as a share of that of the values"
FAILED = "over its limit"


def errors(comparison: Comparison) -> Markup:
    """Both sections."""
    if not comparison.differences:
        return Markup("")
    return joined(_by_graph(comparison), _by_layer(comparison))


def _by_graph(comparison: Comparison) -> Markup:
    groups, exact = by_output(comparison.differences), comparison.exact
    worst, typical = Series("", "diamond", 1, True, ()), Series("", "circle", 0, False, ())
    rows = [Bar(name, tuple(_marks(group, (typical, worst), name))) for name, group in groups.items()]
    limits = _limits(comparison.differences)
    scale = log_scale([*_values(comparison.differences), *(limit.value for limit in limits)])
    chart = bars("Errors by graph and output", "share of the reference, log scale", rows, scale, limits)
    named = (Series(WORST, "diamond", 1, True, ()), Series(TYPICAL, "circle", 0, False, ()))
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
        legend(named, FAILED),
        tag("div", chart, class_="charts"),
        table("Of each output the tensor that is farthest off", columns, cells),
    )


def _by_layer(comparison: Comparison) -> Markup:
    charts, tables, limits = [], [], _limits(comparison.differences)
    series: list[Series] = []
    for graph, kinds in by_layer(comparison.differences).items():
        inside = [one for layers in kinds.values() for group in layers.values() for one in group]
        series = [
            _layers(name, group, typical=typical)
            for name, group in kinds.items()
            for typical in (False, True)
        ]
        numbers = [layer for layers in kinds.values() for layer in layers]
        x = LinearScale(min(numbers), max(numbers))
        y = log_scale([*_values(inside), *(limit.value for limit in limits)])
        charts.append(plot(f"{graph}: errors by layer", "layer", "share, log scale", series, x, y, limits))
        cells = [
            (f"{layer} {name}", number(_most(group, "relative")), number(_most(group, "rms")))
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


def _layers(kind: str, layers: Mapping[int, list[Difference]], *, typical: bool) -> Series:
    field, word = ("rms", "typical") if typical else ("relative", "worst")
    points = tuple(
        Point(
            layer,
            _most(group, field),
            f"layer {layer} {kind}, {word}: {words_of(_most(group, field))}",
            failed=_over(group, field),
        )
        for layer, group in sorted(layers.items())
    )
    shape, colour = ("square", 2) if kind == "value" else ("circle", 0)
    return Series(f"{kind}, {word}", shape, colour, not typical, points)


def _marks(
    group: Sequence[Difference], looks: tuple[Series, Series], name: str
) -> list[tuple[Series, Point]]:
    marks = []
    for look, field, word in zip(looks, ("rms", "relative"), ("typical", "worst"), strict=True):
        value = _most(group, field)
        marks.append(
            (look, Point(0, value, f"{name}, {word}: {words_of(value)}", failed=_over(group, field)))
        )
    return marks


def _most(group: Sequence[Difference], field: str) -> float:
    values = [float(getattr(one, field)) for one in group]
    return math.inf if any(map(math.isnan, values)) else max(values)


def _over(group: Sequence[Difference], field: str) -> bool:
    limit = "worst" if field == "relative" else "rms"
    return not all(getattr(one, field) <= getattr(one.limits, limit) for one in group)


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
