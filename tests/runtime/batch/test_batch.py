"""The `batch` command: one row per image, with the text that `generate` returns or with an error."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pyarrow.parquet
import pytest
from batch_runs import (
    CASE,
    IMAGES,
    PROMPT,
    SAMPLED,
    batch_command,
    rows_by_id,
    rows_in,
    texts_by_id,
    write_images,
)
from command_line import block_imports, run_command, run_in_process
from paths import ROOT

from paligemma_onnx.runtime import Generation, PaliGemma, Request, Timings
from paligemma_onnx.runtime.batch.rows import RowError, parse_boxes
from paligemma_onnx.runtime.text.tokenizer import PromptTokenizer

pytestmark = pytest.mark.slow

Folders = Callable[[str], Path]
BROKEN = (3, 17)  # numbers of truncated images


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("broken") / "images", IMAGES, broken=BROKEN)


def test_rows_are_what_generate_says(
    command: tuple[str, ...], expected: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(set(expected.values())) > 1
    result = run_in_process(capsys, *command, "--output", tmp_path / "out", "--json")
    assert result.code == 0, result.err
    assert texts_by_id(tmp_path / "out") == expected
    summary = json.loads(result.out)
    assert (summary["rows"], summary["errors"], summary["written"]) == (IMAGES, 0, IMAGES)
    assert re.fullmatch(r"40 rows written at [\d.,]+ images/min; 0 of 40 failed\n", result.err)
    for row in rows_in(tmp_path / "out"):
        assert (row["width"], row["height"]) == (9 + int(row["id"][:4]) % 5, 12)
        assert (row["path"], row["prompt"], row["error"], row["boxes"]) == (row["id"], PROMPT, None, [])
        assert row["finish_reason"] in ("stop", "length")
        assert row["timings"]["batch"] == 8
        assert all(row["timings"][stage] > 0 for stage in ("open", "vision", "prefill"))
        assert row["bundle_id"] == summary["bundle_id"]


def test_constrained_rows_are_objects(
    bundle: Folders, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "table.jsonl"
    inputs = [("0000.png", "detect cat"), ("0001.png", "segment dog ; cat"), ("0002.png", "caption en")]
    lines = [json.dumps({"image": str(images / name), "prompt": prompt}) for name, prompt in inputs]
    table.write_text("\n".join(lines), encoding="utf-8")
    arguments = ("batch", "--model", bundle(CASE), "--input", table, "--device", "cpu", *SAMPLED)
    output = ("--output", tmp_path / "out", "--max-new-tokens", "60")
    result = run_in_process(capsys, *arguments, *output, "--constrained")
    assert result.code == 7
    *objects, caption = rows_in(tmp_path / "out")
    for row in objects:
        assert row["warnings"] == []
        assert {box["label"] for box in row["boxes"]} <= {"cat", "dog"}
    assert any(row["boxes"] for row in objects)
    assert caption["error"]["code"] == "prompt"
    assert "begin with `detect` or `segment`" in caption["error"]["message"]
    other = run_in_process(capsys, *arguments, *output)
    assert other.code == 2
    assert "was written with constrained True, not False" in other.error


def test_broken_files_are_rows_with_errors(
    bundle: Folders,
    broken: Path,
    expected: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = run_in_process(capsys, *batch_command(bundle(CASE), broken, "--output", str(tmp_path / "out")))
    assert result.code == 7
    assert result.error.startswith(f"error: 2 of 40 rows in {tmp_path / 'out'} failed; the `error`")
    rows = rows_by_id(rows_in(tmp_path / "out"))
    failed = {name: row for name, row in rows.items() if row["error"]}
    assert set(failed) == {f"{number:04d}.png" for number in BROKEN}
    for name, row in failed.items():
        assert row["error"]["code"] == "image"
        assert str(broken / name) in row["error"]["message"]
        assert (row["text"], row["width"], row["finish_reason"]) == (None, None, None)
    assert {name: row["text"] for name, row in rows.items() if name not in failed} == {
        name: text for name, text in expected.items() if name not in failed
    }
    again = run_in_process(capsys, *batch_command(bundle(CASE), broken, "--output", str(tmp_path / "out")))
    assert again.code == 7  # the rows are still there
    assert again.err.startswith("0 rows written, 40 already present; 2 of 40 failed\n")


def test_shards_together_are_one_run(
    command: tuple[str, ...], expected: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row_counts = []
    for index in range(2):
        # --force keeps the rows of the other shard.
        shard = ("--num-shards", "2", "--shard-index", str(index), "--force")
        result = run_in_process(capsys, *command, "--output", tmp_path / "out", *shard, "--json")
        assert result.code == 0, result.err
        row_counts.append(json.loads(result.out)["rows"])
    assert min(row_counts) > 5
    assert sum(row_counts) == IMAGES
    assert texts_by_id(tmp_path / "out") == expected
    refused = run_in_process(
        capsys, *command, "--output", tmp_path / "out", "--num-shards", "2", "--shard-index", "2"
    )
    assert (refused.code, "expected 0 to 1" in refused.error) == (2, True)


def test_sampled_rows_do_not_depend_on_batches(
    command: tuple[str, ...],
    model: PaliGemma,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for size in ("1", "7"):
        result = run_in_process(capsys, *command, *SAMPLED, "--batch-size", size, "--output", tmp_path / size)
        assert result.code == 0, result.err
    rows = rows_by_id(rows_in(tmp_path / "1"))
    assert rows == rows_by_id(rows_in(tmp_path / "7"))
    assert len({row["seed"] for row in rows.values()}) == IMAGES
    row = rows["0007.png"]
    alone = model.generate(images / "0007.png", PROMPT, max_new_tokens=5, temperature=1.0, seed=row["seed"])
    assert alone.text == row["text"]


def test_requests_may_have_seeds_of_their_own(model: PaliGemma, images: Path) -> None:
    requests = [Request(images / "0000.png", PROMPT, seed) for seed in (None, 9, None)]
    answers = model.generate_batch(requests, temperature=1.0, seed=3, max_new_tokens=5)
    assert [answer.seed for answer in answers] == [3, 9, 5]
    for answer in answers:
        alone = model.generate(
            images / "0000.png", PROMPT, temperature=1.0, seed=answer.seed, max_new_tokens=5
        )
        assert alone.text == answer.text


def test_prompts_of_a_table(
    bundle: Folders, model: PaliGemma, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = {"a": "detect cat", "b": None, "c": "answer en why is it so?"}
    table = tmp_path / "table.jsonl"
    table.write_text(
        "".join(
            json.dumps({"id": name, "image": str(images / "0000.png"), "prompt": prompt}) + "\n"
            for name, prompt in prompts.items()
        )
    )
    arguments = batch_command(bundle(CASE), table, "--output", str(tmp_path / "out"))
    assert run_in_process(capsys, *arguments).code == 0
    for name, row in rows_by_id(rows_in(tmp_path / "out")).items():
        prompt = prompts[name] or PROMPT
        assert row["prompt"] == prompt
        assert row["text"] == model.generate(images / "0000.png", prompt, max_new_tokens=5).text
    bare = [part for part in arguments if part not in ("--prompt", PROMPT)]
    assert run_in_process(capsys, *bare, "--output", tmp_path / "bare").code == 7
    (row,) = (row for row in rows_in(tmp_path / "bare") if row["error"])
    assert (row["id"], row["error"]["code"]) == ("b", "prompt")


def test_parquet_holds_what_json_lines_hold(
    bundle: Folders, broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = batch_command(bundle(CASE), broken, *SAMPLED)
    assert run_in_process(capsys, *arguments, "--output", tmp_path / "lines").code == 7
    assert (
        run_in_process(capsys, *arguments, "--output", tmp_path / "parquet", "--format", "parquet").code == 7
    )
    files = sorted((tmp_path / "parquet").glob("part-*.parquet"))
    tables = [pyarrow.parquet.read_table(path) for path in files]
    assert [table.num_rows for table in tables] == [16, 16, 8]
    assert len({str(table.schema) for table in tables}) == 1
    rows = [row for table in tables for row in table.to_pylist()]
    assert rows_by_id(rows) == rows_by_id(rows_in(tmp_path / "lines"))


def test_what_cannot_start_leaves_nothing(
    bundle: Folders, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = batch_command(bundle(CASE), images, "--output", str(tmp_path / "out"))
    no_prompt = [part for part in good if part not in ("--prompt", PROMPT)]
    for arguments, code, words in (
        ((*good, "--temperature", "-1"), 2, "temperature"),
        ((*good, "--seed", "-1"), 2, "seed"),
        ((*good, "--max-new-tokens", "0"), 2, "--max-new-tokens"),
        ((*good, "--prompt", "x" * 100_000), 3, "prompt"),
        ((*good, "--input", str(tmp_path / "absent")), 2, "does not exist"),
        ((*good, "--model", str(tmp_path)), 4, "manifest.json"),
        (no_prompt, 2, "--prompt"),
        ((*good, "--engine", "ray", "--num-shards", "2"), 2, "--num-shards"),
    ):
        result = run_in_process(capsys, *arguments)
        assert (result.code, words in result.error) == (code, True), result
    assert not (tmp_path / "out").exists()
    (tmp_path / "empty").mkdir()
    result = run_in_process(capsys, *good, "--input", tmp_path / "empty")
    assert (result.code, "contains no input" in result.error) == (2, True)
    assert not (tmp_path / "out" / "run.json").exists()


@pytest.mark.parametrize(
    ("module", "options", "extra"),
    [("pyarrow", ("--format", "parquet"), "parquet"), ("ray", ("--engine", "ray"), "ray")],
)
def test_what_is_not_installed_is_named(
    command: tuple[str, ...], module: str, options: tuple[str, ...], extra: str, tmp_path: Path
) -> None:
    result = run_command(*command, *options, "--output", str(tmp_path / "out"), before=block_imports(module))
    assert result.code == 4
    assert result.error.endswith(f"run `pip install 'paligemma-onnx[cpu,{extra}]'`")


def test_boxes_are_in_pixels() -> None:
    tokenizer = PromptTokenizer.load(ROOT / "export" / "demo" / "paligemma-scenes" / "tokenizer.json")

    def answer(text: str) -> Generation:
        ids = tokenizer.encode(text, 99)[1:-1]
        return Generation(text, ids, "stop", 0, 0, 0, "cpu", Timings(0, 0, 0, 0, 0, 0), ())

    text = "<loc0000><loc0256><loc1023><loc0512> red ring ; <loc0000> what"
    (box,), warnings = parse_boxes(answer(text), tokenizer, 2046, 100)
    edges = {"x1": 512.0, "y1": 0.0, "x2": 1024.0, "y2": 100.0}
    assert asdict(box) == {"label": "red ring", **edges, "score": None}
    assert len(warnings) == 1
    assert parse_boxes(answer("a ring ; no box"), tokenizer, 10, 10) == ((), ())


def test_a_fault_is_one_line_of_valid_text() -> None:
    assert RowError.of(RuntimeError("odd\n\udcff  thing")) == RowError(
        "unexpected", "RuntimeError: odd \\udcff thing"
    )
    assert RowError.of(MemoryError()).code == "resources"
