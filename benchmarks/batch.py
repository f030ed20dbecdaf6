"""Holds `batch` to what it promises, on drawn scenes and the model that ships.

python -m benchmarks.batch --work DIR

Speed beside `generate` one by one, with the same texts; a run killed again and again; broken files; shards;
and with --ray a cluster of this machine, one of whose workers is killed.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import click
from PIL import Image

from paligemma_onnx.export.cli.progress import TerminalProgress
from paligemma_onnx.export.demo.shipped_model import shipped_model
from paligemma_onnx.export.exporter import ExportRequest, export
from paligemma_onnx.export.validation.self_check import self_check
from paligemma_onnx.runtime.console import echo_stderr
from paligemma_onnx.runtime.paligemma import PaliGemma
from training.scenes import render_scene

from .exports import COMMAND
from .ray_cluster import cluster, kill_a_writer

PROMPT = "caption en"
FIRST_SEED = 3_000_000_000  # of scenes that neither training nor evaluation draws
BROKEN = 20  # one picture in so many
FAILED = 7  # exit code
# Runs before COMMAND: 100 rows per part instead of 1,000, so that an interrupted run has several parts.
SMALL_PARTS = "import paligemma_onnx.runtime.cli.batch as command; command.PART_ROWS = 100; "
Rows = dict[str, dict[str, Any]]


@click.command(context_settings={"show_default": True})
@click.option("--work", type=click.Path(path_type=Path), required=True, help="For all that is made.")
@click.option("--scenes", type=click.IntRange(40), default=2000, help="Pictures.")
@click.option("--batch-size", type=click.IntRange(1), default=8, help="Rows answered at a time.")
@click.option("--kills", type=click.IntRange(0), default=10, help="By SIGKILL, at random moments.")
@click.option("--ray", is_flag=True, help="Run on a Ray cluster of this machine, too.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all figures here.")
def main(work: Path, scenes: int, batch_size: int, kills: int, ray: bool, json_file: Path | None) -> None:
    """Hold `batch` to what it promises; ends with an error where it does not keep it."""
    bundle, pictures = made_bundle(work / "bundle"), drawn(work / "scenes", scenes)
    broken = with_broken_files(pictures, work / "broken")
    size = ("--batch-size", str(batch_size))
    figures: dict[str, Any] = {"scenes": scenes, "batch_size": batch_size}

    alone, seconds = one_by_one(bundle, pictures)
    figures["one_by_one_per_minute"] = 60 * scenes / seconds
    echo_stderr(f"one by one: {figures['one_by_one_per_minute']:.0f} images a minute")

    rows, summary = run(bundle, pictures, emptied(work / "batch"), *size)
    figures["batch_per_minute"] = 60 * summary["images_per_second"]
    figures["times"] = figures["batch_per_minute"] / figures["one_by_one_per_minute"]
    echo_stderr(
        f"batch: {figures['batch_per_minute']:.0f} images a minute, {figures['times']:.2f} times as many"
    )
    figures["other_texts"] = sum(alone[name] != row["text"] for name, row in rows.items())
    echo_stderr(f"texts that differ: {figures['other_texts']} of {len(rows)}")

    killed, figures["kills"] = run_killed(
        bundle, pictures, emptied(work / "killed"), kills, seconds / 4, *size
    )
    figures["killed"] = compared(f"killed {figures['kills']} times", killed, rows)
    failed, _ = run(bundle, broken, emptied(work / "with-broken"), *size, code=FAILED)
    figures["broken"] = sum(row["error"] is not None for row in failed.values())
    echo_stderr(f"broken files: {figures['broken']} of {len(failed)} rows are errors")

    shards: Rows = {}
    output = emptied(work / "shards")
    for index in range(2):
        shards, _ = run(bundle, pictures, output, *size, "--num-shards", "2", "--shard-index", str(index))
    figures["shards"] = compared("two shards", shards, rows)
    if ray:
        figures["ray"] = compared(
            "Ray, a worker killed", run_on_ray(bundle, pictures, emptied(work / "ray"), *size), rows
        )
    if json_file is not None:
        json_file.write_text(f"{json.dumps(figures, indent=1)}\n", encoding="ascii")
    kept = figures["other_texts"] == 0 and figures["broken"] == len(range(0, scenes, BROKEN))
    if not kept or any(figures.get(name) for name in ("killed", "shards", "ray")):
        raise click.ClickException("a promise was not kept")


def emptied(output: Path) -> Path:
    """A place for a run from nothing."""
    shutil.rmtree(output, ignore_errors=True)
    return output


def made_bundle(folder: Path) -> Path:
    """The bundle of the model that ships."""
    if not folder.exists():
        with shipped_model() as checkpoint, TerminalProgress() as progress:
            export(ExportRequest(checkpoint, folder), progress, partial(self_check, progress=progress.stage))
    return folder


def drawn(folder: Path, count: int) -> Path:
    """A folder with so many scenes."""
    if not folder.exists():
        unfinished = folder.with_name(f".{folder.name}")
        unfinished.mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor() as pool:
            list(pool.map(partial(_draw, unfinished), range(count), chunksize=32))
        unfinished.rename(folder)
    return folder


def _draw(folder: Path, number: int) -> None:
    Image.fromarray(render_scene(FIRST_SEED + number).pixels).save(folder / f"{number:06d}.png")


def with_broken_files(pictures: Path, folder: Path) -> Path:
    """A copy in which one picture in twenty ends after its first half."""
    if not folder.exists():
        shutil.copytree(pictures, folder)
        for path in sorted(folder.iterdir())[::BROKEN]:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return folder


def one_by_one(bundle: Path, pictures: Path) -> tuple[dict[str, str], float]:
    """What `generate` says of each picture, in one process, and the seconds it took after loading."""
    model = PaliGemma.load(bundle)
    paths = sorted(pictures.iterdir())
    model.generate(paths[0], PROMPT)  # not counted: the engine allocates
    started = time.perf_counter()
    texts = {path.name: model.generate(path, PROMPT).text for path in paths}
    return texts, time.perf_counter() - started


def command(bundle: Path, pictures: Path, output: Path, *options: str) -> list[str]:
    """The command as a user types it."""
    arguments = (
        "--model",
        str(bundle),
        "--input",
        str(pictures),
        "--output",
        str(output),
        "--prompt",
        PROMPT,
    )
    return [sys.executable, "-c", SMALL_PARTS + COMMAND, "batch", *arguments, "--json", *options]


def run(
    bundle: Path, pictures: Path, output: Path, *options: str, code: int = 0
) -> tuple[Rows, dict[str, Any]]:
    """All rows of an output, and the summary of the run that adds to it."""
    ended = subprocess.run(
        command(bundle, pictures, output, *options),
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode != code:
        raise click.ClickException(f"{output.name} ended with {ended.returncode}: {ended.stderr.strip()}")
    return rows_of(output), json.loads(ended.stdout)


def run_killed(
    bundle: Path, pictures: Path, output: Path, kills: int, seconds: float, *options: str
) -> tuple[Rows, int]:
    """Rows of a run that was killed so many times, if it took so long, and the number of kills."""
    moments, done = random.Random(0), 0
    while done < kills:
        process = subprocess.Popen(
            command(bundle, pictures, output, *options), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(moments.uniform(0.5, 0.5 + 2 * seconds / kills))
            break  # it was through
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            done += 1
    subprocess.run(command(bundle, pictures, output, *options), check=True, capture_output=True)
    return rows_of(output), done


def run_on_ray(bundle: Path, pictures: Path, output: Path, *options: str) -> Rows:
    """Rows of a run on a cluster of two workers, one of which is killed as soon as a part is there."""
    with cluster(2) as (address, head):
        on_ray = ("--engine", "ray", "--ray-address", address, "--workers", "2", "--threads", "1")
        process = subprocess.Popen(
            command(bundle, pictures, output, *options, *on_ray), stdout=subprocess.DEVNULL
        )
        while process.poll() is None and not (
            list(output.glob("part-*")) and kill_a_writer(head, output.absolute())
        ):
            time.sleep(0.02)
        if code := process.wait():
            raise click.ClickException(f"Ray ended with {code}")
    return rows_of(output)


def rows_of(output: Path) -> Rows:
    """All rows by id; two of one id are an error."""
    lines = [line for part in sorted(output.glob("part-*")) for line in part.read_bytes().splitlines()]
    rows = {row["id"]: row for row in map(json.loads, lines)}
    if len(rows) != len(lines):
        raise click.ClickException(f"{output.name} has {len(lines)} rows of {len(rows)} inputs")
    return rows


def compared(name: str, rows: Rows, expected: Rows) -> int:
    """How many rows are missing, too many, or of another text."""
    other: int = len(rows.keys() ^ expected.keys()) + sum(
        rows[key]["text"] != expected[key]["text"] for key in rows.keys() & expected.keys()
    )
    echo_stderr(f"{name}: {len(rows)} rows, {other} lost, twice or other than those of one run")
    return other


if __name__ == "__main__":
    main()
