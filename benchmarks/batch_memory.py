"""Shows that the memory of `batch` does not grow with its input: a dry run over millions, with a model that
answers without computing.

python -m benchmarks.batch_memory --work DIR --inputs 10000000

Everything but opening pictures and running graphs is as in a real run: the list, threads, batches, parts.
"""

from __future__ import annotations

import resource
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from paligemma_onnx.runtime.batch.items import Shard
from paligemma_onnx.runtime.batch.output_parts import Count
from paligemma_onnx.runtime.batch.pipeline import BatchOptions
from paligemma_onnx.runtime.batch.shard_runner import Callbacks, ShardJob, run_shard
from paligemma_onnx.runtime.batch.sources import Source
from paligemma_onnx.runtime.bundle.manifest import read_manifest
from paligemma_onnx.runtime.bundle.schema import Manifest
from paligemma_onnx.runtime.console import echo_stderr
from paligemma_onnx.runtime.generation.types import Generation, Options, Request, Timings
from paligemma_onnx.runtime.image.open import ImageInput
from paligemma_onnx.runtime.image.picture import Picture
from paligemma_onnx.runtime.text.tokenizer import PromptTokenizer

POINTS = 20  # times that memory is looked at
MB = 10**6  # bytes
SPREAD = 8 * MB  # what an allocator keeps or gives back from one look to the next
_ANSWER = Generation("a cat", (1, 2), "stop", 4, 64, 0, "cpu", Timings(0.0, 0.1, 0.1, 0.1, 0.2, 9.0), ())


@dataclass
class Stub:
    """A model that says the same about every picture."""

    manifest: Manifest
    tokenizer: PromptTokenizer
    picture: Picture
    device: str = "cpu"

    def open(self, image: ImageInput, *, max_image_pixels: int) -> Picture:  # noqa: ARG002
        """One picture for all."""
        return self.picture

    def generate_batch(self, requests: Sequence[Request], **_options: Any) -> list[Generation]:
        """One answer for all."""
        return [_ANSWER] * len(requests)


@click.command(context_settings={"show_default": True})
@click.option("--bundle", type=click.Path(path_type=Path), required=True, help="Its manifest and tokenizer.")
@click.option("--work", type=click.Path(path_type=Path), required=True, help="For list and parts.")
@click.option("--inputs", type=click.IntRange(1000), default=10_000_000, help="Lines of the list.")
@click.option("--batch-size", type=click.IntRange(1), default=64, help="Rows answered at a time.")
def main(bundle: Path, work: Path, inputs: int, batch_size: int) -> None:
    """Print how much memory is resident as rows are written; fails where it grows after the first tenth."""
    work /= "memory"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    listing = work / "list.txt"
    with listing.open("w", encoding="ascii") as file:
        file.writelines(f"folder-{number // 1000}/picture-{number}.jpg\n" for number in range(inputs))
    manifest = read_manifest(bundle)
    side = manifest.image.size
    stub = Stub(
        manifest,
        PromptTokenizer.load(bundle / manifest.tokens.file),
        Picture(np.zeros((3, side, side), np.float32), 640, 480),
    )
    job = ShardJob(
        source=Source(listing, "list", "caption en", listing),
        output=work,
        shard=Shard(0, 1),
        format="jsonl",
        part_rows=1000,
        options=BatchOptions(Options(max_image_pixels=1, max_new_tokens=8), None, batch_size, 2),
        bundle=bundle,
        device="cpu",
        threads=1,
    )
    seen, points, started = Count(), list[int](), time.perf_counter()

    def answered(count: Count) -> None:
        nonlocal seen
        before, seen = seen, seen + count
        if before.rows * POINTS // inputs != seen.rows * POINTS // inputs:
            points.append(resident())
            rate = seen.rows / (time.perf_counter() - started)
            echo_stderr(f"{seen.rows:,} rows, {points[-1] / MB:.1f} MB resident, {rate:,.0f} rows a second")

    run_shard(job, stub, Callbacks(lambda _: None, answered, lambda: False))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    echo_stderr(
        f"{seen.rows:,} rows in {time.perf_counter() - started:,.0f} s, at most {peak / MB:.1f} MB resident"
    )
    growth = points[-1] - points[POINTS // 10]
    echo_stderr(f"{growth / MB:+.1f} MB from a tenth of the way to the end")
    if seen.rows != inputs or growth > SPREAD:
        raise click.ClickException("memory grows with the input")


def resident() -> int:
    """Bytes of this process in memory; of Linux."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main()
