"""Inputs that change during a run, and damaged files of a run: exit code 2."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from batch_runs import IMAGES, EchoModel, Run, as_table, rows_in

from paligemma_onnx.runtime import OptionError
from paligemma_onnx.runtime.batch.items import Shard
from paligemma_onnx.runtime.batch.ray_engine import PartWriter
from paligemma_onnx.runtime.batch.shard_runner import ShardJob, run_shard
from paligemma_onnx.runtime.batch.sources import Snapshot, input_facts


def during_batch(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], object]) -> None:
    """Act when the model processes the batch with this number, counted from 1."""
    original, batches = EchoModel.generate_batch, 0

    def generate_batch(self: EchoModel, requests: Any, **options: Any) -> Any:
        nonlocal batches
        batches += 1
        if batches == number:
            act()
        return original(self, requests, **options)

    monkeypatch.setattr(EchoModel, "generate_batch", generate_batch)


@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv", "parquet"])
@pytest.mark.parametrize("change", ["truncate", "append", "replace", "delete"])
def test_an_input_that_changes_during_a_run_fails(
    run: Run, listed: Path, kind: str, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = listed if kind == "txt" else as_table(listed, kind)
    content = path.read_bytes()

    def act() -> None:
        if change == "truncate":
            os.truncate(path, content.index(b"0009.png") if kind != "parquet" else len(content) // 2)
        elif change == "append":
            with path.open("ab") as file:
                file.write(content)
        elif change == "replace":
            path.write_bytes(content.replace(b"0039.png", b"0038.png"))
        else:
            path.unlink()

    during_batch(monkeypatch, 2, act)
    result = run(path)
    assert result.code == 2
    assert f"error: {path}: " in result.error
    assert "--force" in result.error or "--input" in result.error or "damaged" in result.error
    assert not (path.parent / "out" / "part-00000-of-00001-000002.jsonl").exists()
    path.write_bytes(content)
    assert run(path).code == 2  # the modification time differs
    assert run(path, "--force").code == 0
    assert len(rows_in(path.parent / "out")) == IMAGES


@pytest.mark.parametrize(("rows", "words"), [(22, "more than 22"), (24, "23"), (20, "more than 20")])
def test_inputs_are_compared_with_their_count(
    job: ShardJob, echo: EchoModel, rows: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = replace(job, snapshot=Snapshot(rows, *input_facts(job.source.path)))
    shards = [replace(job, shard=Shard(index, 2)) for index in range(2)]
    for each in (job, *shards):
        with pytest.raises(OptionError, match=f"has {words} inputs, but {rows} were counted at the start"):
            list(run_shard(each, echo))
    monkeypatch.setattr(ShardJob, "open", lambda _: echo)
    writer = PartWriter(replace(job, output=job.output.parent))
    for _ in range(2):  # a failed stream is not taken for the end of the input
        record = writer({"number": [2]})
        assert record["kind"] == ["OptionError"]
        assert "were counted at the start" in record["message"][0]


def test_a_folder_that_grows_keeps_its_rows(
    run: Run, tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "images"
    shutil.copytree(images, folder)
    during_batch(monkeypatch, 2, (folder / "new.png").touch)
    assert run(folder).code == 0
    assert len(rows_in(tmp_path / "out")) == IMAGES


PART = "part-00000-of-00001-000000"


@pytest.mark.parametrize("content", [b"{", b"[]", b"", b'{"rows": null}', b'{"odd": 1}', b"[" * 100_000])
def test_a_damaged_count_is_named(run: Run, tmp_path: Path, images: Path, content: bytes) -> None:
    assert run(images).code == 0
    state = tmp_path / "out" / f".{PART}.count"
    state.write_bytes(content)
    result = run(images)
    assert (result.code, f"error: {state}: is damaged; choose" in result.error) == (2, True)
    state.write_bytes(b'{"rows": 15, "errors": 0}')
    result = run(images)
    assert (result.code, "out: has 39 rows for 40 inputs" in result.error) == (2, True)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read or written (No such file or directory)"),
        (b"", "has 0 inputs, but 40 were counted at the start"),
        (b'"a.png"\n' * 41, "has more than 40 inputs, but 40 were counted at the start"),
        *((line * IMAGES, "line 1 is damaged") for line in (b"[]\n", b"{\n", b"\xff\n", b'"half', b"7\n")),
    ],
)
def test_a_damaged_listing_is_named(
    run: Run, tmp_path: Path, images: Path, content: bytes | None, words: str
) -> None:
    assert run(images).code == 0
    listing = tmp_path / "out" / ".listing.jsonl"
    if content is None:
        listing.unlink()
    else:
        listing.write_bytes(content)
    result = run(images)
    assert (result.code, f"error: {listing}: {words}" in result.error) == (2, True), result.error


@pytest.mark.parametrize("name", ["run.json", f".{PART}.count", f".{PART}.partial", ".listing.jsonl"])
def test_a_pipe_in_place_of_a_state_file_does_not_hang(
    run: Run, tmp_path: Path, images: Path, name: str
) -> None:
    assert run(images).code == 0
    output = tmp_path / "out"
    if name != f".{PART}.count":
        (output / f"{PART}.jsonl").unlink()
    (output / name).unlink(missing_ok=True)
    os.mkfifo(output / name)
    result = run(images)
    assert (result.code, name in result.error) == (2, True)


@pytest.mark.parametrize("damage", ["{", "[]", "", "null", "[" * 100_000, '{"rows": 3}', "rows", "columns"])
def test_a_damaged_record_can_be_forced(run: Run, tmp_path: Path, listed: Path, damage: str) -> None:
    assert run(listed).code == 0
    record = tmp_path / "out" / "run.json"
    whole = json.loads(record.read_text())
    record.write_text(json.dumps(whole | {damage: None}) if damage.isalpha() and damage != "null" else damage)
    result = run(listed)
    assert (result.code, f"{tmp_path / 'out'}: run.json is damaged; choose" in result.error) == (2, True)
    assert "--force" in result.error
    assert run(listed, "--force").code == 0
    assert json.loads(record.read_text()) == whole


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("[]", "line 2 is not a row of this run"),
        ('{"id": "x"}', "line 2 is not a row of this run"),
        ('"text"', "line 2 is not a row of this run"),
        ("[" * 100_000, "line 2 is not a row of this run"),
        (None, "the id of row 2 is '0.png', but that of the input is '1.png'"),
    ],
)
def test_a_foreign_line_in_a_part_is_named(
    job: ShardJob, echo: EchoModel, line: str | None, words: str
) -> None:
    steps = run_shard(job, echo)
    next(steps)
    next(steps)
    steps.close()
    partial = job.output / f".{PART}.partial"
    lines = partial.read_text().splitlines()
    partial.write_text("\n".join([lines[0], lines[0] if line is None else line, *lines[2:], ""]))
    with pytest.raises(OptionError, match=f"{PART}.*: {words}"):
        list(run_shard(job, echo))


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
@pytest.mark.parametrize("batch", [1, 3, 5])
def test_an_output_that_is_deleted_during_a_run_is_named(
    run: Run, tmp_path: Path, listed: Path, format: str, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    during_batch(monkeypatch, batch, lambda: shutil.rmtree(tmp_path / "out"))
    result = run(listed, "--format", format)
    assert result.code == 2
    assert f"error: {tmp_path / 'out'}/.part-" in result.error
    assert "cannot be read or written" in result.error
