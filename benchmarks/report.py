"""Table of results with one row per figure and one column per system, and ratios to a baseline."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dacite import from_dict

from .exports import Export
from .lower_bounds import decode_bound_s, prefill_bound_s
from .metrics import COMPILE_S, LOAD_S, device_memory, stage_at_batch, step_at_batch, step_at_past
from .results import Prepared, Result

Better = Literal["less", "more"]
Value = Callable[[Result], float | None]
GB = 1e9  # bytes
BASELINES = ("transformers bf16", "torch bf16")  # the first of these that was measured is the baseline


@dataclass(frozen=True)
class Row:
    """Row of the table: one figure of all systems."""

    label: str
    value: Value  # function that returns the figure of a result
    format: str  # format specification of the figure
    better: Better | None = None  # whether smaller or larger figures are better; None: no ratio is shown


@dataclass(frozen=True)
class Bounds:
    """The best measured rates of the hardware, and the number of operations of a prefill."""

    read_bytes_per_s: float
    operations_per_s: float
    prefill_operations: int

    def decode_s(self, result: Result) -> float | None:
        """Return the lower bound of a decode step: the seconds for reading its weights once."""
        size = result.decoder_bytes
        return None if size is None else decode_bound_s(size, self.read_bytes_per_s)

    def prefill_s(self) -> float:
        """Return the lower bound of a prefill: the seconds for computing its matrix products."""
        return prefill_bound_s(self.prefill_operations, self.operations_per_s)


def bounds(limits: Result, operations: int) -> Bounds | None:
    """Return lower bounds computed from the measured limits, or None if the limits were not measured.

    The bounds use the best rates: those of the fastest round, and of the faster dtype of matrix products.

    Args:
        limits: result of `hardware_limits.HardwareLimits`.
        operations: number of operations of a prefill.
    """
    read = limits.maximum("read_bytes_per_s")
    products = [limits.maximum(f"{dtype}_operations_per_s") for dtype in ("bf16", "int8")]
    known = [rate for rate in products if rate is not None]
    return Bounds(read, max(known), operations) if read is not None and known else None


def baseline_of(results: Mapping[str, Result]) -> str:
    """Return the name of the baseline of the ratios, or an empty string if no baseline was measured."""
    return next((name for name in BASELINES if name in results), "")


def read_figures(file: Path) -> tuple[dict[str, Result], tuple[int, ...], Bounds | None]:
    """Read a JSON file that `benchmarks.real_size` wrote.

    Returns:
        Results by name, numbers of cached tokens of the decode steps, and lower bounds. They are empty, and
        the bounds None, if the file does not exist.
    """
    if not file.exists():
        return {}, (), None
    document = json.loads(file.read_text(encoding="utf-8"))
    results = {name: Result.from_json(system) for name, system in document["contenders"].items()}
    limit = None if document["bounds"] is None else from_dict(Bounds, document["bounds"])
    return results, tuple(document["plan"]["pasts"]), limit


def ratio(value: float | None, baseline: float | None, better: Better) -> float | None:
    """Return the ratio of a value to the baseline; a ratio above 1 means that the value is better."""
    if value is None or baseline is None or value <= 0 or baseline <= 0:
        return None
    return baseline / value if better == "less" else value / baseline


def median_of(name: str, scale: float = 1.0) -> Value:
    """Return a function that returns the median of a figure over the rounds, multiplied by `scale`."""

    def value(result: Result) -> float | None:
        median = result.median(name)
        return None if median is None else median * scale

    return value


def export_cost(value: Callable[[Export], float]) -> Value:
    """Return a function that applies `value` to the export cost of a result."""
    return lambda result: None if result.export is None else value(result.export)


def peak_gb(kind: str) -> Value:
    """Return a function that returns the peak of a kind of memory (a field of Memory) in GB."""
    return lambda result: None if result.peak is None else getattr(result.peak, kind) / GB


def start_s(index: int) -> Value:
    """Return a function that returns the seconds of the first (index 0) or second (index 1) start."""
    return lambda result: result.starts[index] if len(result.starts) > index else None


def prepared(value: Callable[[Prepared], float]) -> Value:
    """Return a function that applies `value` to the figures of the prepared bundle."""
    return lambda result: None if result.prepared is None else value(result.prepared)


def rows(batches: Sequence[int], pasts: Sequence[int], limit: Bounds | None) -> list[Row]:
    """Return every row that the table can have; `table` omits the rows without figures."""
    table_rows = [
        Row("bundle, GB", export_cost(lambda cost: cost.bytes / GB), ".2f"),
        Row("export, s", export_cost(lambda cost: cost.seconds), ".0f"),
        Row("export, anonymous memory, GB", export_cost(lambda cost: cost.peak.anonymous / GB), ".2f"),
        *process_rows(),
        Row("prepared: start, s", prepared(lambda cost: cost.start_s), ".2f"),
        Row("prepared: anonymous memory, GB", prepared(lambda cost: cost.peak.anonymous / GB), ".2f"),
        Row("prepared: memory (PSS), GB", prepared(lambda cost: cost.peak.proportional / GB), ".2f"),
        Row("prepared: files, GB", prepared(lambda cost: cost.bytes / GB), ".2f"),
        Row("prepared: writing them, s", prepared(lambda cost: cost.seconds), ".0f"),
        Row("load, s", median_of(LOAD_S), ".2f", "less"),
        Row("first request of the compiled model, s", median_of(COMPILE_S), ".0f"),
        Row("GPU memory, loaded, GB", median_of(device_memory(None), 1 / GB), ".2f", "less"),
    ]
    for images in batches:
        at_batch = "" if images == 1 else f" at batch {images}"
        for label, stage in (
            ("vision, s/image", "vision_s"),
            ("prefill, s", "prefill_s"),
            ("time to first token, s", "time_to_first_token_s"),
        ):
            table_rows.append(
                Row(f"{label}{at_batch}", median_of(stage_at_batch(stage, images)), ".4f", "less")
            )
    for images in batches:
        table_rows += [
            Row(f"decode step at batch {images}, s", median_of(step_at_batch(images)), ".4f", "less"),
            Row(f"tokens/min at batch {images}", median_of(f"tokens_per_minute_{images}"), ".1f", "more"),
            Row(f"images/min at batch {images}", median_of(f"images_per_minute_{images}"), ".1f", "more"),
            Row(f"GPU memory at batch {images}, GB", median_of(device_memory(images), 1 / GB), ".2f", "less"),
        ]
    for past in pasts:
        label = f"decode step with a {past}-token cache, s"
        table_rows.append(Row(label, median_of(step_at_past(past)), ".4f", "less"))
    table_rows.append(Row("driver's share of a decode step", median_of("own_share"), ".1%"))
    table_rows.append(Row("processors that other programs used", Result.median_load, ".2f"))
    return table_rows + ([] if limit is None else list(bound_rows(limit)))


def process_rows() -> Iterator[Row]:
    """Yield the rows about the start and the memory of a process."""
    yield Row("first start, s", start_s(0), ".2f", "less")
    yield Row("second start, s", start_s(1), ".2f", "less")
    yield Row("memory (PSS), GB", peak_gb("proportional"), ".2f", "less")
    yield Row("anonymous memory, GB", peak_gb("anonymous"), ".2f", "less")
    yield Row("mapped files, GB", peak_gb("file"), ".2f")
    yield Row("resident memory (RSS), GB", peak_gb("resident"), ".2f", "less")


def bound_rows(limit: Bounds) -> Iterator[Row]:
    """Yield the rows that compare times with their lower bounds."""
    yield Row("weights per decode step, GB", lambda r: r.decoder_bytes and r.decoder_bytes / GB, ".2f")
    yield Row("lower bound of a decode step, s", limit.decode_s, ".4f")
    yield Row(
        "decode step / lower bound", lambda r: times(r.median(step_at_batch(1)), limit.decode_s(r)), ".2f"
    )
    yield Row("prefill / lower bound", lambda r: times(r.median("prefill_s"), limit.prefill_s()), ".2f")


def times(value: float | None, bound: float | None) -> float | None:
    """Return value / bound, or None if one of them is unknown or the bound is 0."""
    return None if value is None or not bound else value / bound


def table(
    results: Mapping[str, Result], table_rows: Sequence[Row], limit: Bounds | None, against: str
) -> str:
    """Return the results as a table in Markdown, followed by notes.

    Each figure is followed by its ratio to the figure of the baseline. Rows without figures are omitted.

    Args:
        results: results by name; one column each.
        table_rows: the rows.
        limit: lower bounds, which the notes state; None if they were not measured.
        against: name of the baseline.
    """
    baseline = results.get(against)

    def cell(row: Row, result: Result) -> str:
        value = row.value(result)
        if value is None:
            return "-"
        relative = None
        if row.better is not None and baseline is not None and result is not baseline:
            relative = ratio(value, row.value(baseline), row.better)
        return f"{value:{row.format}}" + ("" if relative is None else f" ({relative:.2f}x)")

    def lines() -> Iterator[str]:
        yield f"| | {' | '.join(results)} |"
        yield "|---" * (len(results) + 1) + "|"
        for row in table_rows:
            cells = [cell(row, result) for result in results.values()]
            if set(cells) != {"-"}:
                yield f"| {row.label} | {' | '.join(cells)} |"
        yield ""
        if limit is not None:
            yield (
                f"Lower bounds: memory is read at {limit.read_bytes_per_s / GB:.1f} GB/s, matrices are "
                f"multiplied at {limit.operations_per_s / 1e9:.0f} GFLOP/s, "
                f"a prefill takes {limit.prefill_s():.4f} s."
            )
        if baseline is not None:
            yield f"In brackets: ratio to {against}; over 1 is faster or smaller."
        for result in results.values():
            if result.kernels is not None:
                yield f"{result.name}: {kernels_of(result.kernels, result.median(step_at_batch(1)))}."
            if result.tool is not None:
                yield f"{result.name}: {result.tool}."
            if result.failure is not None:
                yield f"{result.name} FAILED: {result.failure}"

    return "\n".join(lines())


def kernels_of(kernels: Mapping[str, Any], step_s: float | None) -> str:
    """Describe the kernels of a decode step on a GPU: their number, their total time, and the other time.

    Args:
        kernels: result of `cuda.transfers.profile_steps`.
        step_s: seconds of a decode step; None if unknown.
    """
    if not kernels["seen"]:
        return f"kernels are unknown: {kernels['why']}"
    text = f"{kernels['kernels']:.0f} kernels per decode step, which take {1e3 * kernels['kernels_s']:.3f} ms"
    if step_s is None or not kernels["kernels"]:
        return text
    between = (step_s - kernels["kernels_s"]) / kernels["kernels"]
    return f"{text}, and {1e6 * between:.1f} us per kernel outside of kernels"
