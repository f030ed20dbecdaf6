"""Charts and tables of the report about errors, by graph and by layer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

from ..validation.measures import Comparison, Difference, Limits
from .chart_scales import LinearScale, LogScale, format_limit, log_scale
from .charts import Bar, Chart, Limit, Point, Series, bar_chart, plot
from .grouping import by_layer, by_output, largest


@dataclass(frozen=True)
class Measure:
    """One of the two measures of a tensor's error."""

    name: str
    error: str  # attribute of Difference
    limit: str  # attribute of Limits
    series: Series  # with the mark of this measure

    def largest(self, group: Iterable[Difference]) -> float:
        """Return the largest error of a group; NaN counts as infinity."""
        errors = map(attrgetter(self.error), group)
        return max(math.inf if math.isnan(error) else error for error in errors)

    def point(self, name: str, x: float, group: Sequence[Difference]) -> Point:
        """Return the point of the largest error of a group."""
        error, limit = attrgetter(self.error), attrgetter(self.limit)
        passed = all(error(difference) <= limit(difference.limits) for difference in group)
        value = self.largest(group)
        return Point(x, value, f"{name}, {self.name}: {format_error(value)}", failed=not passed)


WORST = Measure(
    "worst",
    "relative",
    "worst",
    Series("worst: largest error / largest value of the reference", "diamond", 1, filled=True),
)
TYPICAL = Measure(
    "typical",
    "rms",
    "rms",
    Series("typical: RMS of the errors / RMS of the reference's values", "circle", 0, filled=False),
)
MEASURES = (WORST, TYPICAL)


@dataclass(frozen=True)
class OutputErrors:
    """Row of the table by graph."""

    output: str  # graph and kind of output
    largest: Difference
    passed: bool  # all tensors of this output


@dataclass(frozen=True)
class LayerErrors:
    """Chart and table of one graph's errors by layer."""

    graph: str
    series: Sequence[Series]
    chart: Chart
    rows: Sequence[tuple[str, float, float]]  # layer and kind, worst error, typical error


@dataclass(frozen=True)
class Errors:
    """Content of both sections."""

    chart: Chart
    outputs: Sequence[OutputErrors]
    layers: Sequence[LayerErrors]
    measures: Sequence[Measure] = MEASURES


def summarize_errors(comparison: Comparison) -> Errors:
    """Prepare the sections about errors by graph and by layer."""
    outputs = by_output(comparison.differences)
    bars = [
        Bar(
            name,
            tuple((measure.series, measure.point(name, 0, group)) for measure in (TYPICAL, WORST)),
            _limit_lines(group),
        )
        for name, group in outputs.items()
    ]
    title, axis = "Errors by graph and output", "share of the reference, log scale"
    return Errors(
        chart=bar_chart(title, axis, bars, _scale(comparison.differences)),
        outputs=[
            OutputErrors(
                name,
                largest(group, exact=comparison.exact),
                passed=all(difference.passed for difference in group),
            )
            for name, group in outputs.items()
        ],
        layers=[_layer_errors(graph, kinds) for graph, kinds in by_layer(comparison.differences).items()],
    )


def format_error(value: float) -> str:
    """Format an error with three digits, or as text if it is not finite."""
    return f"{value:.2e}" if math.isfinite(value) else "not finite"


def format_limits(limits: Limits) -> str:
    """Format both limits, as one number if they are equal."""
    worst, typical = format_limit(limits.worst), format_limit(limits.rms)
    return worst if worst == typical else f"worst {worst}, typical {typical}"


def _layer_errors(graph: str, kinds: Mapping[str, Mapping[int, list[Difference]]]) -> LayerErrors:
    series = [_layer_series(kind, layers, measure) for kind, layers in kinds.items() for measure in MEASURES]
    differences = [
        difference for layers in kinds.values() for group in layers.values() for difference in group
    ]
    numbers = [layer for layers in kinds.values() for layer in layers]
    x, y = LinearScale(min(numbers), max(numbers)), _scale(differences)
    title, axis = f"{graph}: errors by layer", "share, log scale"
    rows = [
        (f"{layer} {kind}", WORST.largest(group), TYPICAL.largest(group))
        for kind, layers in kinds.items()
        for layer, group in layers.items()
    ]
    return LayerErrors(
        graph, series, plot(title, "layer", axis, series, x, y, _limit_lines(differences)), rows
    )


def _layer_series(kind: str, layers: Mapping[int, list[Difference]], measure: Measure) -> Series:
    points = (measure.point(f"layer {layer} {kind}", layer, group) for layer, group in sorted(layers.items()))
    shape, colour = ("square", 2) if kind == "value" else ("circle", 0)
    return Series(f"{kind}, {measure.name}", shape, colour, measure.series.filled, tuple(points))


def _limit_lines(differences: Iterable[Difference]) -> tuple[Limit, ...]:
    """Return the finite limits of some tensors, as one line if both measures have the same limit."""
    lines = []
    for limits in dict.fromkeys(difference.limits for difference in differences):
        names = {"worst": limits.worst, "typical": limits.rms}
        if limits.worst == limits.rms:
            names = {"both": limits.worst}
        lines += [
            Limit(value, f"{name} ≤ {format_limit(value)}")
            for name, value in names.items()
            if math.isfinite(value)
        ]
    return tuple(lines)


def _scale(differences: Iterable[Difference]) -> LogScale:
    """Return a scale with a place for all errors and limits."""
    differences = list(differences)
    errors = [error for difference in differences for error in (difference.relative, difference.rms)]
    return log_scale([*errors, *(limit.value for limit in _limit_lines(differences))])
