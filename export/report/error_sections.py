"""Charts and tables of the report about errors, by graph and by layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

from ..validation.measures import Comparison, Difference
from .chart_scales import LinearScale, LogScale, format_limit, log_scale
from .charts import SHAPES, Bar, Chart, Mark, Series, bar_chart, plot
from .grouping import by_layer, by_output


@dataclass(frozen=True)
class Measure:
    """A measure of a tensor's error: `WORST` or `TYPICAL`."""

    name: str
    error: Callable[[Difference], float]
    limit: Callable[[Difference], float]
    series: Series  # series of this measure in the chart by graph

    def mark(self, name: str, series: Series, x: float, group: Sequence[Difference]) -> Mark:
        """Return a mark for the largest error in a group of tensors."""
        value = largest_error(map(self.error, group))
        passed = all(self.error(difference) <= self.limit(difference) for difference in group)
        return Mark(series, x, value, f"{name}, {self.name}: {format_error(value)}", failed=not passed)


WORST = Measure(
    "worst",
    attrgetter("relative"),
    attrgetter("limits.worst"),
    Series("worst: largest error / largest value of the reference", SHAPES["diamond"], 1, filled=True),
)
TYPICAL = Measure(
    "typical",
    attrgetter("rms"),
    attrgetter("limits.rms"),
    Series("typical: RMS of the errors / RMS of the reference's values", SHAPES["circle"], 0, filled=False),
)


@dataclass(frozen=True)
class LayerErrors:
    """Chart and table of one graph's errors by layer."""

    chart: Chart
    kinds: Mapping[str, Mapping[int, Sequence[Difference]]]  # differences by kind (key, value) and layer


@dataclass(frozen=True)
class Errors:
    """Content of the section about errors by graph and of the section about errors by layer."""

    series: Sequence[Series]  # series of `chart`, in the order of the legend
    chart: Chart
    outputs: Mapping[str, Sequence[Difference]]  # differences by graph and kind of output
    layers: Sequence[LayerErrors]


def summarize_errors(comparison: Comparison) -> Errors:
    """Return the content of the sections about errors by graph and by layer."""
    outputs = by_output(comparison.differences)
    bars = [
        Bar(
            name,
            [measure.mark(name, measure.series, 0, group) for measure in (TYPICAL, WORST)],
            _limit_lines(group),
        )
        for name, group in outputs.items()
    ]
    title, axis = "Errors by graph and output", "share of the reference, log scale"
    return Errors(
        series=[WORST.series, TYPICAL.series],
        chart=bar_chart(title, axis, bars, _scale(comparison.differences)),
        outputs=outputs,
        layers=[_layer_errors(graph, kinds) for graph, kinds in by_layer(comparison.differences).items()],
    )


def largest_error(errors: Iterable[float]) -> float:
    """Return the largest error; NaN counts as infinity."""
    return max(math.inf if math.isnan(error) else error for error in errors)


def format_error(value: float, spec: str = ".2e") -> str:
    """Return an error as text; "not finite" for NaN and infinity."""
    return format(value, spec) if math.isfinite(value) else "not finite"


def _layer_errors(graph: str, kinds: Mapping[str, Mapping[int, list[Difference]]]) -> LayerErrors:
    groups = []
    for kind, layers in kinds.items():
        shape, colour = (SHAPES["square"], 2) if kind == "value" else (SHAPES["circle"], 0)
        for measure in (WORST, TYPICAL):
            series = Series(f"{kind}, {measure.name}", shape, colour, measure.series.filled)
            groups.append(
                [
                    measure.mark(f"layer {layer} {kind}", series, layer, group)
                    for layer, group in layers.items()
                ]
            )
    x = LinearScale(max(layer for layers in kinds.values() for layer in layers))
    differences = [
        difference for layers in kinds.values() for group in layers.values() for difference in group
    ]
    y, limits = _scale(differences), _limit_lines(differences)
    title = f"{graph}: errors by layer"
    return LayerErrors(plot(title, "layer", "share, log scale", groups, x, y, limits), kinds)


def _limit_lines(differences: Iterable[Difference]) -> dict[str, float]:
    """Return the finite limits of the tensors; the keys are the names that a chart shows.

    If both measures of a tensor have the same limit, they share a single entry.
    """
    lines: dict[str, float] = {}
    for limits in dict.fromkeys(difference.limits for difference in differences):
        values = {"worst": limits.worst, "typical": limits.rms}
        if limits.worst == limits.rms:
            values = {"both": limits.worst}
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        lines |= {f"{name} ≤ {format_limit(value)}": value for name, value in finite.items()}
    return lines


def _scale(differences: Iterable[Difference]) -> LogScale:
    """Return a scale that has a place for every error and every limit."""
    differences = list(differences)
    errors = [error for difference in differences for error in (difference.relative, difference.rms)]
    return log_scale([*errors, *_limit_lines(differences).values()])
