"""`batch`: a folder, list or table of pictures to rows of JSONL or Parquet, as long as it takes."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from json import dumps
from pathlib import Path
from typing import Any, cast, get_args

import click
import numpy as np

from ..batch.items import Shard
from ..batch.output_parts import Count, Format
from ..batch.parquet import parquet
from ..batch.pipeline import BatchOptions
from ..batch.progress import Progress
from ..batch.ray_engine import run_shard_on_ray
from ..batch.run_record import LISTING, RunRecord, input_facts, open_run
from ..batch.shard_runner import Callbacks, ShardJob, run_shard
from ..batch.signals import GracefulShutdown
from ..batch.sources import Source, kind_of
from ..bundle.manifest import read_manifest
from ..bundle.schema import Manifest
from ..errors import FailedRowsError, OptionError
from ..generation.plan import plan_batch
from ..generation.types import Options, Request
from ..image.picture import Picture
from ..text.tokenizer import PromptTokenizer
from .options import (
    CONSTRAINED,
    DEVICE,
    GPU_MEMORY,
    MAX_IMAGE_PIXELS,
    MAX_NEW_TOKENS,
    MODEL,
    THREADS,
    sampling,
)

FEW_ROWS = 100  # before so many, a share of errors says little
DECODERS = min(4, os.cpu_count() or 1)  # threads; a picture is opened many times faster than it is answered


@click.command()
@MODEL
@click.option(
    "--input", type=click.Path(path_type=Path), required=True, help="Folder, .txt, .jsonl, .parquet or .tar."
)
@click.option("--prompt", help="Of rows that have none of their own.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder for the parts.")
@click.option("--format", type=click.Choice(get_args(Format)), default="jsonl", help="Of the parts.")
@click.option("--batch-size", type=click.IntRange(min=1), default=8, help="Rows answered at a time.")
@click.option("--decoders", type=click.IntRange(min=1), default=DECODERS, help="Threads opening pictures.")
@click.option("--part-rows", type=click.IntRange(min=1), default=1000, help="Rows of a part.")
@click.option("--num-shards", type=click.IntRange(min=1), default=1, help="Shares of the input.")
@click.option("--shard-index", type=click.IntRange(min=0), default=0, help="The share to answer.")
@click.option("--max-error-rate", type=click.FloatRange(0, 1), help="Stop at a larger share of errors.")
@click.option("--force", is_flag=True, help="Replace what a different run wrote.")
@click.option("--engine", type=click.Choice(("local", "ray")), default="local", help="Who does the work.")
@click.option("--ray-address", default="auto", help="Of a running cluster.")
@click.option("--workers", type=click.IntRange(min=1), help="On Ray.  [default: one a machine]")
@MAX_NEW_TOKENS
@sampling
@CONSTRAINED
@DEVICE
@THREADS
@GPU_MEMORY
@MAX_IMAGE_PIXELS
@click.option("--json", is_flag=True, help="Print one JSON object at the end.")
def batch(
    model: Path,
    input: Path,
    prompt: str | None,
    output: Path,
    format: str,
    batch_size: int,
    decoders: int,
    part_rows: int,
    num_shards: int,
    shard_index: int,
    max_error_rate: float | None,
    force: bool,
    engine: str,
    ray_address: str,
    workers: int | None,
    max_new_tokens: int | None,
    temperature: float,
    top_p: float,
    top_k: int,
    seed: int | None,
    constrained: bool,
    device: str,
    threads: int | None,
    gpu_memory: int | None,
    max_image_pixels: int,
    json: bool,
) -> None:
    """Ask about many pictures: one row for each, whatever happens.

    Run again after an interruption, it goes on where it was. Ends with code 7 where rows hold errors.
    """
    if shard_index >= num_shards:
        raise OptionError(
            f"--shard-index is {shard_index}, expected 0 to {num_shards - 1}, below --num-shards"
        )
    if engine == "ray" and num_shards > 1:
        raise OptionError("--engine ray spreads the parts itself; leave --num-shards out")
    if engine == "ray" and device.startswith("cuda:"):
        raise OptionError("--engine ray gives each worker a GPU of its own; say --device cuda")
    path = Path(os.path.abspath(input))  # noqa: PTH100  keeps links, which resolve() would follow
    output = Path(os.path.abspath(output))  # noqa: PTH100
    source = Source(path, kind_of(path), prompt, output / LISTING)
    if prompt is None and source.kind in ("folder", "list"):
        raise OptionError(f"{input}: its pictures have no prompts of their own; give --prompt")
    if format == "parquet":
        parquet()  # before hours of work, not behind them

    manifest = read_manifest(model)
    options = Options(
        max_new_tokens=manifest.generation.max_new_tokens if max_new_tokens is None else max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        constrained=constrained,
        max_image_pixels=max_image_pixels,
    )
    _check(options, seed, prompt, manifest, model)
    size, modified = input_facts(path)
    wanted = RunRecord(
        bundle_id=manifest.bundle_id,
        input=str(path),
        input_bytes=size,
        input_modified=modified,
        prompt=prompt,
        max_new_tokens=options["max_new_tokens"],
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=seed if temperature > 0 else None,
        constrained=constrained,
        max_image_pixels=max_image_pixels,
        format=cast(Format, format),
        part_rows=part_rows,
        num_shards=num_shards,
    )
    shard = Shard(shard_index, num_shards)
    with GracefulShutdown() as stop, open_run(output, wanted, source, shard, force=force) as record:
        work = ShardJob(
            source=source,
            output=output,
            shard=shard,
            format=record.format,
            part_rows=part_rows,
            asking=BatchOptions(options, record.seed, batch_size, decoders),
            bundle=Path(os.path.abspath(model)),  # noqa: PTH100
            device=device,
            threads=threads,
            memory_limit=gpu_memory,
        )
        if engine == "ray":
            do = partial(run_shard_on_ray, work, record.rows, address=ray_address, workers=workers)
        else:
            do = partial(run_shard, work, work.open())
        with Progress(round(record.rows / num_shards), exact=num_shards == 1) as progress:
            do(watch=Callbacks(progress.passed, _limited(progress, max_error_rate), stop))
        if json:
            click.echo(dumps(_summary(progress, record)))
        stop.raise_if_stopped()
        if progress.all.errors:
            raise FailedRowsError(
                f"{progress.all.errors:,} of {progress.all.rows:,} rows in {output} hold an error, "
                "which says what mends it"
            )


def _check(options: Options, seed: int | None, prompt: str | None, manifest: Manifest, bundle: Path) -> None:
    """Refuse options and a prompt that no row could be asked with; raises OptionError, PromptError."""
    blank = Picture(np.zeros((3, manifest.image.size, manifest.image.size), np.float32), 1, 1)
    tokenizer = PromptTokenizer.load(bundle / manifest.tokens.file)
    if prompt is None:  # each row has its own, and is checked when it comes
        prompt, options = "", {**options, "constrained": False}
    plan_batch([Request(blank, prompt, seed)], options, manifest, tokenizer, device="", load_s=0.0)


def _limited(progress: Progress, most: float | None) -> Callable[[Count], None]:
    """Count rows, and end the run where too many are errors."""

    def answered(count: Count) -> None:
        progress.answered(count)
        rows, errors = progress.all.rows, progress.all.errors
        if most is not None and rows >= FEW_ROWS and errors > most * rows:
            raise FailedRowsError(
                f"stopped: {errors:,} of {rows:,} rows hold an error, more than --max-error-rate {most:g}; "
                "run again with a larger one to go on"
            )

    return answered


def _summary(progress: Progress, record: RunRecord) -> dict[str, Any]:
    return {
        "rows": progress.all.rows,
        "errors": progress.all.errors,
        "written": progress.now.rows,
        "seconds": progress.seconds,
        "images_per_second": progress.images_per_second,
        "bundle_id": record.bundle_id,
    }
