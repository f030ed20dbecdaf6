"""Check the guarantees of `paligemma-onnx batch` with the shipped model on generated scenes.

python -m benchmarks.batch --work DIR

The check compares speed and texts with `generate` called once per image. It also kills a run repeatedly,
damages some input files, and splits the input into shards. With --ray, it kills a worker of a Ray cluster on
this machine.
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
from .ray_cluster import kill_a_writer, ray_cluster

PROMPT = "caption en"
FIRST_SEED = 3_000_000_000  # seed of the first scene; training and evaluation use smaller seeds
DAMAGED_EVERY = 20  # one image in this many is damaged
SOME_ROWS_FAILED = 7  # exit code of `batch` if at least one row is an error
# Python code that runs before COMMAND. It sets 100 rows per part instead of 1,000, so that an interrupted run
# has already written several parts.
SMALL_PARTS = "import paligemma_onnx.runtime.cli.batch as command; command.PART_ROWS = 100; "
Rows = dict[str, dict[str, Any]]  # rows of an output by their id


@click.command(context_settings={"show_default": True})
@click.option(
    "--work",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder for the bundle, images and outputs; the next run reuses bundle and images.",
)
@click.option("--scenes", type=click.IntRange(40), default=2000, help="Number of images.")
@click.option("--batch-size", type=click.IntRange(1), default=8, help="Images per batch.")
@click.option(
    "--kills", type=click.IntRange(0), default=10, help="How often to kill the run, at random times."
)
@click.option("--ray", is_flag=True, help="Also run `batch` on a Ray cluster on this machine.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all figures to this file.")
def main(work: Path, scenes: int, batch_size: int, kills: int, ray: bool, json_file: Path | None) -> None:
    """Check the guarantees of `batch`; fail if one of them is violated."""
    bundle, images = make_bundle(work / "bundle"), draw_scenes(work / "scenes", scenes)
    damaged = damage_some(images, work / "broken")
    size = ("--batch-size", str(batch_size))
    figures: dict[str, Any] = {"scenes": scenes, "batch_size": batch_size}

    texts, seconds = generate_one_by_one(bundle, images)
    figures["one_by_one_per_minute"] = 60 * scenes / seconds
    echo_stderr(f"one by one: {figures['one_by_one_per_minute']:.0f} images/min")

    rows, summary = run(bundle, images, empty_folder(work / "batch"), *size)
    figures["batch_per_minute"] = 60 * summary["images_per_second"]
    figures["times"] = figures["batch_per_minute"] / figures["one_by_one_per_minute"]
    echo_stderr(f"batch: {figures['batch_per_minute']:.0f} images/min, {figures['times']:.2f} times as fast")
    figures["other_texts"] = sum(texts[name] != row["text"] for name, row in rows.items())
    echo_stderr(f"texts that differ: {figures['other_texts']} of {len(rows)}")

    killed, figures["kills"] = run_killed(
        bundle, images, empty_folder(work / "killed"), kills, seconds / 4, *size
    )
    figures["killed"] = count_differences(f"killed {figures['kills']} times", killed, rows)
    failed, _ = run(bundle, damaged, empty_folder(work / "with-broken"), *size, code=SOME_ROWS_FAILED)
    figures["broken"] = sum(row["error"] is not None for row in failed.values())
    echo_stderr(f"damaged files: {figures['broken']} of {len(failed)} rows are errors")

    shards: Rows = {}
    output = empty_folder(work / "shards")
    for index in range(2):
        shards, _ = run(bundle, images, output, *size, "--num-shards", "2", "--shard-index", str(index))
    figures["shards"] = count_differences("two shards", shards, rows)
    if ray:
        on_ray = run_on_ray(bundle, images, empty_folder(work / "ray"), *size)
        figures["ray"] = count_differences("Ray, a worker killed", on_ray, rows)
    if json_file is not None:
        json_file.write_text(f"{json.dumps(figures, indent=1)}\n", encoding="ascii")
    expected_errors = len(range(0, scenes, DAMAGED_EVERY))
    differing = [name for name in ("other_texts", "killed", "shards", "ray") if figures.get(name)]
    if differing or figures["broken"] != expected_errors:
        raise click.ClickException(
            f"`batch` violates a guarantee: {', '.join(differing) or 'damaged files'} (see the lines above)"
        )


def empty_folder(output: Path) -> Path:
    """Remove a folder and its contents, and return its path; `batch` creates the folder again."""
    shutil.rmtree(output, ignore_errors=True)
    return output


def make_bundle(folder: Path) -> Path:
    """Export the shipped model unless the bundle exists, and return its folder."""
    if not folder.exists():
        with shipped_model() as checkpoint, TerminalProgress() as progress:
            export(ExportRequest(checkpoint, folder), progress, partial(self_check, progress=progress.stage))
    return folder


def draw_scenes(folder: Path, count: int) -> Path:
    """Draw `count` scenes as PNG files unless the folder exists, and return the folder."""
    if not folder.exists():
        partial_folder = folder.with_name(f".{folder.name}")
        partial_folder.mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor() as pool:
            list(pool.map(partial(_draw, partial_folder), range(count), chunksize=32))
        partial_folder.rename(folder)
    return folder


def _draw(folder: Path, number: int) -> None:
    Image.fromarray(render_scene(FIRST_SEED + number).pixels).save(folder / f"{number:06d}.png")


def damage_some(images: Path, folder: Path) -> Path:
    """Copy the images to `folder`, truncate one file in `DAMAGED_EVERY` to half its size; return `folder`."""
    if not folder.exists():
        shutil.copytree(images, folder)
        for path in sorted(folder.iterdir())[::DAMAGED_EVERY]:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return folder


def generate_one_by_one(bundle: Path, images: Path) -> tuple[dict[str, str], float]:
    """Answer PROMPT about each image with one call of `generate` per image.

    Returns:
        The texts by file name, and the seconds for all images. Loading the model is not timed.
    """
    model = PaliGemma.load(bundle)
    paths = sorted(images.iterdir())
    model.generate(paths[0], PROMPT)  # not timed, because onnxruntime allocates memory in the first call
    started = time.perf_counter()
    texts = {path.name: model.generate(path, PROMPT).text for path in paths}
    return texts, time.perf_counter() - started


def command(bundle: Path, images: Path, output: Path, *options: str) -> list[str]:
    """Return the command line of `paligemma-onnx batch`."""
    paths = ("--model", str(bundle), "--input", str(images), "--output", str(output))
    arguments = (*paths, "--prompt", PROMPT, "--json", *options)
    return [sys.executable, "-c", SMALL_PARTS + COMMAND, "batch", *arguments]


def run(
    bundle: Path, images: Path, output: Path, *options: str, code: int = 0
) -> tuple[Rows, dict[str, Any]]:
    """Run `batch`; return all rows of the output, and the summary of the run.

    Raises:
        click.ClickException: the exit code is not `code`.
    """
    ended = subprocess.run(
        command(bundle, images, output, *options), capture_output=True, text=True, check=False
    )
    if ended.returncode != code:
        raise click.ClickException(f"{output.name} ended with {ended.returncode}: {ended.stderr.strip()}")
    return read_rows(output), json.loads(ended.stdout)


def run_killed(
    bundle: Path, images: Path, output: Path, kills: int, seconds: float, *options: str
) -> tuple[Rows, int]:
    """Start `batch` repeatedly and kill each run; then run `batch` until it ends.

    Args:
        bundle: the bundle.
        images: folder of images.
        output: folder of the rows.
        kills: maximum number of kills. There are fewer kills if a run ends before it is killed.
        seconds: approximate duration of all killed runs together.
        options: further options of `batch`.

    Returns:
        The rows of the output, and the number of kills.
    """
    generator, done = random.Random(0), 0
    while done < kills:
        process = subprocess.Popen(
            command(bundle, images, output, *options), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(generator.uniform(0.5, 0.5 + 2 * seconds / kills))
            break  # the run has ended
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            done += 1
    subprocess.run(command(bundle, images, output, *options), check=True, capture_output=True)
    return read_rows(output), done


def run_on_ray(bundle: Path, images: Path, output: Path, *options: str) -> Rows:
    """Run `batch` on a Ray cluster of two workers, and kill one worker when the first part is complete."""
    with ray_cluster(2) as (address, head):
        on_ray = ("--engine", "ray", "--ray-address", address, "--workers", "2", "--threads", "1")
        process = subprocess.Popen(
            command(bundle, images, output, *options, *on_ray), stdout=subprocess.DEVNULL
        )
        while process.poll() is None and not (
            list(output.glob("part-*")) and kill_a_writer(head, output.absolute())
        ):
            time.sleep(0.02)
        if code := process.wait():
            raise click.ClickException(f"`batch --engine ray` ended with {code}")
    return read_rows(output)


def read_rows(output: Path) -> Rows:
    """Return all rows of an output by their id.

    Raises:
        click.ClickException: two rows have the same id.
    """
    lines = [line for part in sorted(output.glob("part-*")) for line in part.read_bytes().splitlines()]
    rows = {row["id"]: row for row in map(json.loads, lines)}
    if len(rows) != len(lines):
        raise click.ClickException(f"{output.name} has {len(lines)} rows, but only {len(rows)} ids")
    return rows


def count_differences(name: str, rows: Rows, expected: Rows) -> int:
    """Return the number of rows that are missing, are unexpected, or have a different text."""
    differing: int = len(rows.keys() ^ expected.keys()) + sum(
        rows[key]["text"] != expected[key]["text"] for key in rows.keys() & expected.keys()
    )
    echo_stderr(f"{name}: {len(rows)} rows, {differing} missing, unexpected or different")
    return differing


if __name__ == "__main__":
    main()
