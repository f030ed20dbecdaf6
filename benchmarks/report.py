"""The table: a row a figure, a column a contender, and how many times as good as one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from .exports import Export
from .lower_bounds import decode_floor_s, prefill_floor_s
from .metrics import step_at_past
from .results import Prepared, Result

Better = Literal["less", "more"]
Value = Callable[[Result], float | None]
GB = 1e9  # bytes
BASELINE = "transformers bf16"


@dataclass(frozen=True)
class Row:
    """One figure of all contenders."""

    label: str
    value: Value
    shown: str  # format of the value
    better: Better | None = None  # None: not compared


@dataclass(frozen=True)
class Bounds:
    """What the machine does at best, and what is asked of it."""

    read_bytes_per_s: float
    operations_per_s: float
    prefill_operations: int

    def decode_s(self, result: Result) -> float | None:
        """Seconds in which the machine reads the weights of a decode step once."""
        size = result.decoder_bytes
        return None if size is None else decode_floor_s(size, self.read_bytes_per_s)

    def prefill_s(self) -> float:
        """Seconds in which the machine multiplies the matrices of a prefill."""
        return prefill_floor_s(self.prefill_operations, self.operations_per_s)


def bounds(limits: Result, operations: int) -> Bounds | None:
    """From the measured limits; None where they were not measured. The faster kind of product counts.

    A limit is what the machine does at best, so of the rounds the fastest counts.
    """
    read = limits.most("read_bytes_per_s")
    products = [limits.most(f"{kind}_operations_per_s") for kind in ("bf16", "int8")]
    known = [rate for rate in products if rate is not None]
    return Bounds(read, max(known), operations) if read is not None and known else None


def ratio(value: float | None, baseline: float | None, better: Better) -> float | None:
    """How many times as good as the baseline: over 1 is better, whichever way that lies."""
    if value is None or baseline is None or value <= 0 or baseline <= 0:
        return None
    return baseline / value if better == "less" else value / baseline


def typical(name: str) -> Value:
    """A figure's median."""
    return lambda result: result.typical(name)


def made(value: Callable[[Export], float]) -> Value:
    """Something that the export cost."""
    return lambda result: None if result.export is None else value(result.export)


def peak(kind: str) -> Value:
    """The most memory of a kind, GB."""
    return lambda result: None if result.peak is None else getattr(result.peak, kind) / GB


def start(which: int) -> Value:
    """Seconds of the first or second start."""
    return lambda result: result.starts[which] if len(result.starts) > which else None


def prepared(value: Callable[[Prepared], float]) -> Value:
    """Something about a prepared bundle."""
    return lambda result: None if result.prepared is None else value(result.prepared)


def rows(batches: Sequence[int], pasts: Sequence[int], limit: Bounds | None) -> list[Row]:
    """Every figure that is reported."""
    found = [
        Row("bundle, GB", made(lambda export: export.bytes / GB), ".2f"),
        Row("export, s", made(lambda export: export.seconds), ".0f"),
        Row("export, anonymous GB", made(lambda export: export.peak.anonymous / GB), ".2f"),
        *process_rows(),
        Row("prepared: start, s", prepared(lambda made: made.start_s), ".2f"),
        Row("prepared: memory, anonymous, GB", prepared(lambda made: made.peak.anonymous / GB), ".2f"),
        Row("prepared: memory, each page once, GB", prepared(lambda got: got.peak.proportional / GB), ".2f"),
        Row("prepared: files, GB", prepared(lambda made: made.bytes / GB), ".2f"),
        Row("prepared: to write them, s", prepared(lambda made: made.seconds), ".0f"),
        Row("vision, s a picture", typical("vision_s"), ".3f", "less"),
        Row("prefill, s", typical("prefill_s"), ".3f", "less"),
        Row("first token, s", typical("time_to_first_token_s"), ".3f", "less"),
        *(Row(f"step at batch {size}, s", typical(f"step_s_{size}"), ".4f", "less") for size in batches),
        *(
            Row(f"{what} a minute at batch {size}", typical(f"{what}_per_minute_{size}"), ".1f", "more")
            for what in ("tokens", "images")
            for size in batches
        ),
        *(
            Row(f"step behind {slots} slots, s", typical(step_at_past(slots)), ".4f", "less")
            for slots in pasts
        ),
        Row("driver's own share of a token", typical("own_share"), ".1%"),
    ]
    if limit is not None:
        found += [
            Row("weights a step reads, GB", lambda r: r.decoder_bytes and r.decoder_bytes / GB, ".2f"),
            Row("step's floor, s", limit.decode_s, ".4f"),
            Row("step over its floor", lambda r: over(r.typical("step_s_1"), limit.decode_s(r)), ".2f"),
            Row("prefill over its floor", lambda r: over(r.typical("prefill_s"), limit.prefill_s()), ".2f"),
        ]
    return found


def process_rows() -> Iterator[Row]:
    """Starting a process and its memory."""
    yield Row("first start, s", start(0), ".2f", "less")
    yield Row("second start, s", start(1), ".2f", "less")
    yield Row("memory, each page once, GB", peak("proportional"), ".2f", "less")
    yield Row("memory, anonymous, GB", peak("anonymous"), ".2f", "less")
    yield Row("memory, files, GB", peak("file"), ".2f")
    yield Row("memory, VmHWM, GB", peak("resident"), ".2f", "less")


def over(value: float | None, floor: float | None) -> float | None:
    """How many times the floor; None where either is unknown."""
    return None if value is None or not floor else value / floor


def table(
    results: Mapping[str, Result], found: Sequence[Row], limit: Bounds | None, against: str = BASELINE
) -> str:
    """Markdown. Behind a figure stands how many times as good as that of the one named `against` it is."""
    baseline = results.get(against)

    def cell(row: Row, result: Result) -> str:
        value = row.value(result)
        if value is None:
            return "-"
        times = None
        if row.better is not None and baseline is not None and result is not baseline:
            times = ratio(value, row.value(baseline), row.better)
        return f"{value:{row.shown}}" + ("" if times is None else f" ({times:.2f}x)")

    def lines() -> Iterator[str]:
        yield f"| | {' | '.join(results)} |"
        yield "|---" * (len(results) + 1) + "|"
        for row in found:
            cells = [cell(row, result) for result in results.values()]
            if set(cells) != {"-"}:
                yield f"| {row.label} | {' | '.join(cells)} |"
        yield ""
        if limit is not None:
            yield (
                f"Floors: memory is read at {limit.read_bytes_per_s / GB:.1f} GB/s, matrices are multiplied "
                f"at {limit.operations_per_s / 1e9:.0f} GFLOP/s, a prefill takes {limit.prefill_s():.3f} s."
            )
        if baseline is not None:
            yield f"In brackets: times as good as {against}; over 1 is faster or smaller."
        for result in results.values():
            if result.failure is not None:
                yield f"{result.name} FAILED: {result.failure}"

    return "\n".join(lines())
