"""`batch --engine ray` on a local cluster: the rows of a local run, though a worker is killed midway."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from batch_runs import PROMPT, rows_by_id, rows_in, write_images
from command_line import run_command, start_command
from damage import copied, edit_manifest, endless

from benchmarks.ray_cluster import cluster, kill_a_writer
from paligemma_onnx.runtime.batch.items import Shard
from paligemma_onnx.runtime.batch.pipeline import BatchOptions
from paligemma_onnx.runtime.batch.ray_engine import PartWriter
from paligemma_onnx.runtime.batch.shard_runner import ShardJob
from paligemma_onnx.runtime.batch.sources import Source
from paligemma_onnx.runtime.generation.types import Options

WORKERS = 2


@pytest.fixture(scope="module")
def ray() -> Iterator[tuple[str, int]]:
    """Address of a cluster of this machine, and its first process."""
    with cluster(WORKERS) as found:
        yield found


def test_a_killed_worker_costs_no_row(
    ray: tuple[str, int], bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    address, head = ray
    talkative = copied(bundle("gemma_one_kv_head"), tmp_path / "bundle")
    edit_manifest(talkative, endless)  # long answers, so that there is time to kill
    pictures = write_images(tmp_path / "pictures", 40, broken=(7,))
    command = (
        *("batch", "--model", str(talkative), "--input", str(pictures), "--prompt", PROMPT),
        *("--device", "cpu", "--threads", "1", "--part-rows", "10", "--batch-size", "2"),
        *("--max-new-tokens", "100", "--temperature", "1", "--seed", "3"),
    )
    local = run_command(*command, "--output", str(tmp_path / "local"))
    assert local.code == 7, local.err

    output = tmp_path / "ray"
    on_ray = ("--output", str(output), "--engine", "ray", "--ray-address", address, "--workers", str(WORKERS))
    process = start_command(*command, *on_ray)
    while not (killed := kill_a_writer(head, output)) and process.poll() is None:
        time.sleep(0.01)
    assert killed, process.communicate()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 7, (out, err)
    assert b"40 rows written" in err
    assert rows_by_id(rows_in(output)) == rows_by_id(rows_in(tmp_path / "local"))

    # With everything done, nobody is asked: it answers from the counts alone.
    again = run_command(*command, *on_ray)
    assert again.code == 7
    assert again.err.startswith("0 rows written, 40 were there already; 1 of 40 are errors\n")


def test_where_there_is_no_cluster(bundle: Callable[[str], Path], tmp_path: Path) -> None:
    pictures = write_images(tmp_path / "pictures", 1)
    command = (
        "batch",
        "--model",
        str(bundle("gemma_one_kv_head")),
        "--input",
        str(pictures),
        "--prompt",
        PROMPT,
    )
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        ended = run_command(
            *command, "--output", str(tmp_path / "out"), "--engine", "ray", "--ray-address", address
        )
    assert ended.code == 4
    assert f"no Ray cluster at {address}" in ended.error


def test_a_worker_says_what_ends_the_run(bundle: Callable[[str], Path], tmp_path: Path) -> None:
    """Without a cluster: what Ray calls, called."""
    (tmp_path / "list.txt").write_text("absent.png\nlost.png\nnowhere.png\n")
    work = ShardJob(
        source=Source(tmp_path / "list.txt", "list", PROMPT, tmp_path / "none"),
        output=tmp_path,
        shard=Shard(0, 1),
        format="jsonl",
        part_rows=2,
        asking=BatchOptions(Options(max_new_tokens=4, max_image_pixels=1), None, 4, 2),
        bundle=bundle("gemma_one_kv_head"),
        device="cpu",
        threads=1,
    )
    writer = PartWriter(work)
    assert [writer({"number": [number]})["rows"] for number in (1, 0, 0)] == [[1], [2], [2]]
    assert [row["id"] for row in rows_in(tmp_path)] == ["absent.png", "lost.png", "nowhere.png"]
    found = PartWriter(replace(work, bundle=tmp_path, format="parquet"))({"number": [0]})
    assert found["kind"] == ["BundleError"]
    assert "manifest.json" in str(found["message"])
