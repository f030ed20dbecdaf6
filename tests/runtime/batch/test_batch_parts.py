"""Parts of the output: what a killed run leaves, and how the next run continues, at every step."""

from __future__ import annotations

import gc
import json
import math
import os
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from batch_runs import INPUTS, PROMPT, EchoModel, rows_in

from paligemma_onnx.runtime import OptionError
from paligemma_onnx.runtime.batch import output_parts as parts
from paligemma_onnx.runtime.batch.output_parts import Count, Format
from paligemma_onnx.runtime.batch.shard_runner import PartItems, ShardJob, run_shard
from paligemma_onnx.runtime.batch.sources import Source


class Died(BaseException):
    """The simulated death of the process."""


def run(job: ShardJob, echo: EchoModel, on_written: Callable[[Count], object] = lambda _: None) -> Count:
    """Run a shard and return the count of rows that earlier runs had written."""
    skipped = Count()
    for count, is_new in run_shard(job, echo):
        if is_new:
            on_written(count)
        else:
            skipped += count
    return skipped


def ids(job: ShardJob) -> list[str]:
    return [row["id"] for row in rows_in(job.output)]


EVERYTHING = [f"{number}.png" for number in range(INPUTS)]


def test_parts_have_their_rows_in_order(job: ShardJob, echo: EchoModel) -> None:
    echo.batches.clear()
    run(job, echo)
    assert sorted(path.name for path in job.output.glob("part-*")) == [
        f"part-00000-of-00001-00000{number}.jsonl" for number in range(3)
    ]
    assert ids(job) == EVERYTHING
    assert echo.batches == [4, 4, 2, 4, 4, 2, 3]
    assert run(job, echo) == Count(INPUTS, 0)
    assert len(echo.batches) == 7  # nothing is generated again


class Mortal:
    """Wraps functions so that they raise `Died` after `left` calls of all of them together."""

    def __init__(self) -> None:
        self.left = math.inf

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise Died
            return function(*arguments, **options)

        return step


@pytest.mark.slow
@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_a_run_that_dies_at_any_step_is_completed(
    job: ShardJob, echo: EchoModel, format: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies at each call that changes the disk, in turn."""
    mortal = Mortal()
    monkeypatch.setattr(os, "fsync", mortal(os.fsync))
    monkeypatch.setattr(parts, "write_parquet", mortal(parts.write_parquet))
    for name in ("open", "replace", "unlink"):
        monkeypatch.setattr(Path, name, mortal(getattr(Path, name)))
    deaths, died = 0, True
    while died:
        this_job = replace(job, format=format, output=job.output / f"{format}-{deaths}")
        this_job.output.mkdir()
        mortal.left, died = deaths, False
        try:
            run(this_job, echo)
        except Died:
            died = True
            deaths += 1
            mortal.left = math.inf
            run(this_job, echo)
        mortal.left = math.inf
        assert written(this_job) == EVERYTHING
    assert deaths > 20


def written(job: ShardJob) -> list[str]:
    if job.format == "jsonl":
        return ids(job)
    tables = [pyarrow.parquet.read_table(path) for path in sorted(job.output.glob("part-*"))]
    return [name for table in tables for name in table.column("id").to_pylist()]


@pytest.mark.parametrize("tail", [b'{"id": "half', b'{"error": nul\n', b"\0" * 40, b"\0" * 40 + b"\n"])
def test_a_line_that_was_cut_off_is_dropped(job: ShardJob, echo: EchoModel, tail: bytes) -> None:
    written_rows = Count()

    def die_in_the_second_part(count: Count) -> None:
        nonlocal written_rows
        written_rows += count
        if written_rows.rows == 14:
            raise Died

    with pytest.raises(Died):
        run(job, echo, die_in_the_second_part)
    partial = job.output / ".part-00000-of-00001-000001.partial"
    with partial.open("ab") as file:
        file.write(tail)
    assert run(job, echo) == Count(14, 0)
    assert ids(job) == EVERYTHING


def truncate(partial: Path) -> None:
    os.truncate(partial, partial.stat().st_size // 2)


def exchange(partial: Path) -> None:
    partial.rename(partial.with_name("elsewhere"))
    partial.write_bytes(b"another program\n")


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
@pytest.mark.parametrize("rows", [14, 20])  # in the middle and at the end of the second part
@pytest.mark.parametrize("change", [Path.unlink, truncate, exchange])
def test_a_part_that_changes_during_the_run_is_reported(
    job: ShardJob, echo: EchoModel, change: Callable[[Path], None], rows: int, format: Format
) -> None:
    job = replace(job, format=format)
    partial = job.output / ".part-00000-of-00001-000001.partial"
    written_rows = Count()

    def change_once(count: Count) -> None:
        nonlocal written_rows
        written_rows += count
        if written_rows.rows == rows:
            change(partial)

    with pytest.raises(OptionError, match=f"{partial.name}: was removed or changed during the run"):
        run(job, echo, change_once)
    assert [path.name for path in job.output.glob("part-*")] == [job.part(0).file.name]
    run(job, echo)
    assert written(job) == EVERYTHING


def test_finished_parts_are_counted_and_not_read(job: ShardJob, echo: EchoModel) -> None:
    table = job.source.path.with_suffix(".jsonl")
    prompts = [PROMPT] * 5 + ["nan"] + [PROMPT] * 6
    table.write_text("".join(json.dumps({"image": "a.png", "prompt": prompt}) + "\n" for prompt in prompts))
    job = replace(job, source=Source(table, "jsonl", PROMPT, table))
    run(job, echo)
    first = job.part(0).file
    first.write_bytes(b"not even JSON")
    assert run(job, echo) == Count(12, 1)
    assert first.read_bytes() == b"not even JSON"
    (job.output / ".part-00000-of-00001-000000.count").unlink()
    with pytest.raises(OptionError, match="without hidden files"):
        run(job, echo)


def test_parts_can_be_asked_for_in_any_order(job: ShardJob) -> None:
    parts = PartItems(job)

    def numbers(items: Iterator[Any]) -> list[int]:
        return [int(item.id.removesuffix(".png")) for item in items]

    assert numbers(parts.items(1)) == list(range(10, 20))
    next(parts.items(2))
    assert numbers(parts.items(2)) == [20, 21, 22]
    assert numbers(parts.items(0)) == list(range(10))
    assert numbers(parts.items(3)) == []


def test_a_batch_that_fails_costs_only_the_guilty_row(job: ShardJob, echo: EchoModel) -> None:
    prompts = [PROMPT, "nan", "x" * 100_000, PROMPT, PROMPT]
    table = job.source.path.with_suffix(".jsonl")
    table.write_text("".join(json.dumps({"image": "a.png", "prompt": prompt}) + "\n" for prompt in prompts))
    echo.batches.clear()
    run(replace(job, source=Source(table, "jsonl", None, table)), echo)
    rows = rows_in(job.output)
    assert [row["text"] for row in rows] == [PROMPT, None, None, PROMPT, PROMPT]
    assert [row["error"] and row["error"]["code"] for row in rows] == [
        None,
        "numerics",
        "prompt",
        None,
        None,
    ]
    assert echo.batches == [3, 1, 1, 1, 1]  # the prompt that is too long never reaches the model
    assert [row["timings"] and row["timings"]["batch"] for row in rows] == [1, None, None, 1, 1]


@pytest.fixture
def untraced() -> Iterator[None]:
    """Stop coverage in this thread and in new threads, since tracemalloc would count its data."""
    thread_trace, trace = threading.gettrace(), sys.gettrace()
    threading.settrace(None)  # type: ignore[arg-type]
    sys.settrace(None)
    yield
    sys.settrace(trace)
    threading.settrace(thread_trace)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.usefixtures("untraced")
def test_memory_does_not_grow_with_the_input(job: ShardJob, echo: EchoModel) -> None:
    job.source.path.write_text("".join(f"{number}.png\n" for number in range(1900)))
    job = replace(job, part_rows=100, options=replace(job.options, batch_size=20))
    rows, alive = 0, dict[int, int]()

    def on_written(count: Count) -> None:
        nonlocal rows
        rows += count.rows
        if rows % 600 == 0:
            gc.collect()
            alive[rows] = tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        run(job, echo, on_written)
    finally:
        tracemalloc.stop()
    assert list(alive) == [600, 1200, 1800]
    assert alive[1800] < alive[600] + 20_000  # bytes; ids alone would be 70,000
