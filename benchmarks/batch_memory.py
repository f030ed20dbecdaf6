"""Check with millions of inputs that the memory of `batch` does not grow with the number of inputs.

python -m benchmarks.batch_memory --bundle BUNDLE --work DIR --inputs 10000000

A stub model replaces opening images and running graphs. The list of inputs, the threads, the batches and the
output parts are those of a real run.
"""

from __future__ import annotations

import json
import os
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
from paligemma_onnx.runtime.batch.shard_runner import ShardJob, run_shard
from paligemma_onnx.runtime.batch.sources import Source
from paligemma_onnx.runtime.bundle.manifest import read_manifest
from paligemma_onnx.runtime.bundle.schema import Manifest
from paligemma_onnx.runtime.console import echo_stderr
from paligemma_onnx.runtime.generation.types import Generation, Options, Request, Timings
from paligemma_onnx.runtime.image.open import ImageInput
from paligemma_onnx.runtime.image.picture import Picture
from paligemma_onnx.runtime.text.tokenizer import PromptTokenizer

from .memory import process_memory

SAMPLES = 20  # number of memory measurements, evenly spaced over the inputs
MB = 10**6  # bytes
MAX_GROWTH = 8 * MB  # an allocator may keep or release this much memory between two measurements
KIB = 1 << 10  # bytes; the unit of getrusage(2)
_ANSWER = Generation("a cat", (1, 2), "stop", 4, 64, 0, "cpu", Timings(0.0, 0.1, 0.1, 0.1, 0.2, 9.0), ())


@dataclass
class StubModel:
    """A model that returns the same image and answer for every input."""

    manifest: Manifest
    tokenizer: PromptTokenizer
    picture: Picture
    device: str = "cpu"

    def open(self, image: ImageInput, *, max_image_pixels: int) -> Picture:  # noqa: ARG002
        """Return the image."""
        return self.picture

    def generate_batch(self, requests: Sequence[Request], **_options: Any) -> list[Generation]:
        """Return the answer for each request."""
        return [_ANSWER] * len(requests)


@click.command(context_settings={"show_default": True})
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    required=True,
    help="Bundle whose manifest and tokenizer are used.",
)
@click.option(
    "--work", type=click.Path(path_type=Path), required=True, help="Folder for the list and the output."
)
@click.option("--inputs", type=click.IntRange(1000), default=10_000_000, help="Number of inputs in the list.")
@click.option("--batch-size", type=click.IntRange(1), default=64, help="Images per batch.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all figures to this file.")
def main(bundle: Path, work: Path, inputs: int, batch_size: int, json_file: Path | None) -> None:
    """Print the resident memory while rows are written.

    Fail if the memory grows after the first tenth of the inputs.
    """
    work /= "memory"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    listing = work / "list.txt"
    with listing.open("w", encoding="ascii") as file:
        file.writelines(f"folder-{number // 1000}/image-{number}.jpg\n" for number in range(inputs))
    manifest = read_manifest(bundle)
    side = manifest.image.size
    stub = StubModel(
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
    written, samples, started = Count(), list[int](), time.perf_counter()
    for count, _ in run_shard(job, stub):
        before, written = written, written + count
        if before.rows * SAMPLES // inputs != written.rows * SAMPLES // inputs:
            samples.append(process_memory(os.getpid(), proportional=False).resident)
            rate = written.rows / (time.perf_counter() - started)
            echo_stderr(f"{written.rows:,} rows, {samples[-1] / MB:.1f} MB resident, {rate:,.0f} rows/s")
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB
    echo_stderr(f"{written.rows:,} rows in {seconds:,.0f} s, peak {peak / MB:.1f} MB resident")
    growth = samples[-1] - samples[SAMPLES // 10]
    echo_stderr(f"{growth / MB:+.1f} MB between the first tenth of the inputs and the end")
    if json_file is not None:
        figures = {"inputs": inputs, "rows": written.rows, "seconds": seconds, "resident_bytes": samples}
        figures |= {"peak_bytes": peak, "growth_bytes": growth}
        json_file.write_text(f"{json.dumps(figures, indent=1)}\n", encoding="ascii")
    if written.rows != inputs or growth > MAX_GROWTH:
        raise click.ClickException(
            "the memory of `batch` grows with the number of inputs, or rows are missing"
        )


if __name__ == "__main__":
    main()
