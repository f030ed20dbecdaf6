"""`batch --engine ray` on a local cluster writes the rows of a local run, even if a worker is killed."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from batch_runs import PROMPT, rows_by_id, rows_in, set_part_rows, write_images
from command_line import run_command, start_command
from damage import copy_folder, disable_stop_ids, edit_manifest
from time_limits import HANG

from benchmarks.ray_cluster import kill_a_writer, ray_cluster
from paligemma_onnx.runtime.batch.items import Shard
from paligemma_onnx.runtime.batch.pipeline import BatchOptions
from paligemma_onnx.runtime.batch.ray_engine import PartWriter
from paligemma_onnx.runtime.batch.shard_runner import ShardJob
from paligemma_onnx.runtime.batch.sources import Source
from paligemma_onnx.runtime.generation.types import Options

pytestmark = pytest.mark.full

WORKERS = 2
SMALL_PARTS = set_part_rows(10)


@pytest.fixture(scope="module")
def ray() -> Iterator[tuple[str, int]]:
    """Address and process id of a cluster on this machine."""
    with ray_cluster(WORKERS) as record:
        yield record


def test_a_killed_worker_costs_no_row(
    ray: tuple[str, int], bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    address, head = ray
    bundle_copy = copy_folder(bundle("gemma_one_kv_head"), tmp_path / "bundle")
    edit_manifest(bundle_copy, disable_stop_ids)  # long answers leave time for the kill
    images = write_images(tmp_path / "images", 40, broken=(7,))
    command = (
        *("batch", "--model", str(bundle_copy), "--input", str(images), "--prompt", PROMPT),
        *("--device", "cpu", "--threads", "1", "--batch-size", "2"),
        *("--max-new-tokens", "100", "--temperature", "1", "--seed", "3"),
    )
    local = run_command(*command, "--output", str(tmp_path / "local"), before=SMALL_PARTS)
    assert local.code == 7, local.err

    output = tmp_path / "ray"
    on_ray = ("--output", str(output), "--engine", "ray", "--ray-address", address, "--workers", str(WORKERS))
    process = start_command(*command, *on_ray, before=SMALL_PARTS)
    while not (killed := kill_a_writer(head, output)) and process.poll() is None:
        time.sleep(0.01)
    assert killed, process.communicate()
    out, err = process.communicate(timeout=HANG)
    assert process.returncode == 7, (out, err)
    assert b"40 rows written" in err
    assert rows_by_id(rows_in(output)) == rows_by_id(rows_in(tmp_path / "local"))

    # A complete output needs no worker: the counts of the parts suffice.
    again = run_command(*command, *on_ray, before=SMALL_PARTS)
    assert again.code == 7
    assert again.err.startswith("0 rows written, 40 already present; 1 of 40 failed\n")


def test_scores_are_those_of_a_local_run(
    ray: tuple[str, int], bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    images = write_images(tmp_path / "images", 25)
    rows = [
        {"file_name": f"{images}/{number:04d}.png", "prefix": PROMPT, "suffix": "ring" * (number % 3)}
        for number in range(25)
    ]
    table = tmp_path / "metadata.jsonl"
    table.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    command = (
        *("batch", "--model", str(bundle("gemma_one_kv_head")), "--input", str(table), "--json"),
        *("--device", "cpu", "--threads", "1", "--max-new-tokens", "5"),
    )
    local = run_command(*command, "--output", str(tmp_path / "local"), before=SMALL_PARTS)
    on_ray = ("--engine", "ray", "--ray-address", ray[0], "--workers", str(WORKERS))
    remote = run_command(*command, "--output", str(tmp_path / "ray"), *on_ray, before=SMALL_PARTS)
    assert (local.code, remote.code) == (0, 0), remote.err
    assert rows_by_path(tmp_path / "ray") == rows_by_path(tmp_path / "local")
    summaries = [json.loads(result.out) for result in (local, remote)]
    assert [summary["scored"] for summary in summaries] == [25, 25]
    assert summaries[0]["exact_match"] == summaries[1]["exact_match"]
    assert summaries[0]["token_accuracy"] == pytest.approx(summaries[1]["token_accuracy"])


def rows_by_path(output: Path) -> dict[str, Any]:
    return {row["path"]: row["token_accuracy"] for row in rows_in(output)}


def test_where_there_is_no_cluster(bundle: Callable[[str], Path], tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", 1)
    command = (
        "batch",
        "--model",
        str(bundle("gemma_one_kv_head")),
        "--input",
        str(images),
        "--prompt",
        PROMPT,
    )
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # bound, but not listening
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        result = run_command(
            *command, "--output", str(tmp_path / "out"), "--engine", "ray", "--ray-address", address
        )
    assert result.code == 4
    assert f"no Ray cluster at {address}" in result.error


def test_a_worker_says_what_ends_the_run(bundle: Callable[[str], Path], tmp_path: Path) -> None:
    """Calls the worker as Ray does, without a cluster."""
    (tmp_path / "list.txt").write_text("absent.png\nlost.png\nnowhere.png\n")
    job = ShardJob(
        source=Source(tmp_path / "list.txt", "list", PROMPT, tmp_path / "none"),
        output=tmp_path,
        shard=Shard(0, 1),
        format="jsonl",
        part_rows=2,
        options=BatchOptions(Options(max_new_tokens=4, max_image_pixels=1), None, 4, 2),
        bundle=bundle("gemma_one_kv_head"),
        device="cpu",
        threads=1,
    )
    writer = PartWriter(job)
    assert [writer({"number": [number]})["rows"] for number in (1, 0, 0)] == [[1], [2], [2]]
    assert [row["id"] for row in rows_in(tmp_path)] == ["absent.png", "lost.png", "nowhere.png"]
    record = PartWriter(replace(job, bundle=tmp_path, format="parquet"))({"number": [0]})
    assert record["kind"] == ["BundleError"]
    assert "manifest.json" in str(record["message"])
