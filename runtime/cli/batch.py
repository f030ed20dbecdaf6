"""The `batch` command: answer a prompt about a folder, list, table or tar of images, one output row each."""

from __future__ import annotations

import os
from contextlib import closing
from json import dumps
from pathlib import Path
from typing import Any, cast, get_args

import click
import numpy as np

from ..batch.items import Shard
from ..batch.output_parts import Format
from ..batch.parquet import import_parquet
from ..batch.pipeline import BatchOptions
from ..batch.progress import Progress
from ..batch.ray_engine import run_shard_on_ray
from ..batch.run_record import RunRecord, open_run
from ..batch.shard_runner import ShardJob, run_shard
from ..batch.signals import GracefulShutdown
from ..batch.sources import Snapshot, Source, input_facts
from ..batch.state_file import REMEDY
from ..batch.survey import survey
from ..bundle.manifest import read_manifest
from ..bundle.schema import Manifest
from ..console import echo, echo_stderr
from ..engine.devices import available_threads
from ..errors import FailedRowsError, OptionError
from ..generation.plan import plan_batch
from ..generation.resolved_options import with_defaults
from ..generation.types import Options, Request
from ..image.picture import Picture
from ..text.tokenizer import PromptTokenizer
from .batch_input import input_options
from .generation_options import generation_options
from .options import MODEL, DeviceOptions, device_options
from .parameters import JSON

MIN_ROWS_FOR_RATE = 100  # minimum for --max-error-rate: the rate of fewer rows says little
DECODERS = min(4, available_threads())  # threads; decoding an image is many times faster than answering
PART_ROWS = 1000  # rows per output file


@click.command()
@MODEL
@input_options
@click.option("--format", type=click.Choice(get_args(Format)), default="jsonl", help="Output file format.")
@click.option(
    "--batch-size",
    metavar="N",
    type=click.IntRange(min=1),
    default=8,
    help="Images per call of the model.",
)
@click.option(
    "--num-shards",
    metavar="N",
    type=click.IntRange(min=1),
    default=1,
    help="Split the input into N shards, one per machine or process.",
)
@click.option(
    "--shard-index",
    metavar="I",
    type=click.IntRange(min=0),
    default=0,
    help="Process shard I only, 0 to N - 1.",
)
@click.option(
    "--max-error-rate",
    metavar="RATE",
    type=click.FloatRange(0, 1),
    show_default="never stop",
    help=f"Stop if more than this fraction (0 to 1) of at least {MIN_ROWS_FOR_RATE} rows failed.",
)
@click.option("--force", is_flag=True, help="Replace the output of a different run.")
@click.option(
    "--engine",
    type=click.Choice(("local", "ray")),
    default="local",
    help="Run in this process or on a Ray cluster.",
)
@click.option("--ray-address", metavar="ADDRESS", default="auto", help="Address of the Ray cluster.")
@click.option(
    "--workers",
    metavar="N",
    type=click.IntRange(min=1),
    show_default="one per machine",
    help="Ray workers.",
)
@generation_options
@device_options
@JSON
def batch(
    model: Path,
    source: Source,
    output: Path,
    format: str,
    batch_size: int,
    num_shards: int,
    shard_index: int,
    max_error_rate: float | None,
    force: bool,
    engine: str,
    ray_address: str,
    workers: int | None,
    options: Options,
    device: DeviceOptions,
    json: bool,
) -> None:
    """Answer a prompt about many images and write one row per image.

    A row contains the answer, detected boxes, or the error if the image could not be processed; a run with
    failed rows exits with code 7. If a run is interrupted, start the same command again to resume it.
    """
    shard = Shard(shard_index, num_shards)
    _check_engine(engine, shard, device)
    if format == "parquet":
        import_parquet()  # fail now rather than after hours of work

    manifest = read_manifest(model)
    seed = options.get("seed")
    options = with_defaults(options, manifest)
    _check(options, source.prompt, manifest, model)
    notes = survey(source)
    size, modified = input_facts(source.path)
    requested = RunRecord(
        bundle_id=manifest.bundle_id,
        input=str(source.path),
        input_bytes=size,
        input_modified=modified,
        prompt=source.prompt,
        columns=source.columns,
        max_new_tokens=options["max_new_tokens"],
        temperature=options["temperature"],
        top_p=options["top_p"],
        top_k=options["top_k"],
        repetition_penalty=options["repetition_penalty"],
        suppress_tokens=tuple(options["suppress_tokens"]),
        logprobs=options["logprobs"],
        special_tokens=options["special_tokens"],
        seed=seed if options["temperature"] > 0 else None,
        constrained=options["constrained"],
        max_image_pixels=options["max_image_pixels"],
        format=cast(Format, format),
        part_rows=PART_ROWS,
        num_shards=num_shards,
    )
    with (
        closing(GracefulShutdown()) as stop,
        open_run(output, requested, source, shard, force=force) as record,
    ):
        for note in notes:
            echo_stderr(f"note: {note}")
        job = ShardJob(
            source=source,
            output=output,
            shard=shard,
            format=record.format,
            part_rows=record.part_rows,
            options=BatchOptions({**options, "seed": None}, record.seed, batch_size, DECODERS),
            bundle=Path(os.path.abspath(model)),  # noqa: PTH100
            device=device.name,
            threads=device.threads,
            memory_limit=device.memory_limit,
            low_memory=device.low_memory,
            snapshot=Snapshot(record.rows, record.input_bytes, record.input_modified),
        )
        if engine == "ray":
            run = run_shard_on_ray(job, record.rows, address=ray_address, workers=workers)
        else:
            run = run_shard(job, job.open())
        progress = Progress(round(record.rows / num_shards), exact=num_shards == 1)
        with closing(progress), closing(run):
            for count, is_new in run:
                progress.add(count, is_new=is_new)
                if is_new:
                    _check_error_rate(progress, max_error_rate)
                if stop():
                    break
        if json:
            echo(dumps(_summary(progress, record)))
        stop.raise_if_stopped()
        if num_shards == 1:
            _check_row_count(progress, record, output)
        if progress.all.errors:
            raise FailedRowsError(
                f"{progress.all.errors:,} of {progress.all.rows:,} rows in {output} failed; "
                "the `error` of each of these rows describes the problem"
            )


def _check_engine(engine: str, shard: Shard, device: DeviceOptions) -> None:
    """Raise OptionError if the options that distribute the work contradict each other."""
    if shard.index >= shard.count:
        raise OptionError(
            f"--shard-index is {shard.index}, expected 0 to {shard.count - 1}: it must be below --num-shards"
        )
    if engine == "ray" and shard.count > 1:
        raise OptionError("--engine ray distributes the work itself; omit --num-shards")
    if engine == "ray" and device.name.startswith("cuda:"):
        raise OptionError("--engine ray assigns a GPU to each worker; use --device cuda")


def _check(options: Options, prompt: str | None, manifest: Manifest, bundle: Path) -> None:
    """Raise OptionError or PromptError if these options or this prompt would make every row fail."""
    blank = Picture(np.zeros((3, manifest.image.size, manifest.image.size), np.float32), 1, 1)
    tokenizer = PromptTokenizer.load(bundle / manifest.tokens.file)
    if prompt is None:  # each row has its own prompt, which is checked when the row is processed
        prompt, options = "", {**options, "constrained": False}
    plan_batch([Request(blank, prompt)], options, manifest, tokenizer, device="", load_s=0.0)


def _check_error_rate(progress: Progress, max_rate: float | None) -> None:
    """Raise FailedRowsError if too many rows failed."""
    rows, errors = progress.all.rows, progress.all.errors
    if max_rate is not None and rows >= MIN_ROWS_FOR_RATE and errors > max_rate * rows:
        raise FailedRowsError(
            f"stopped: {errors:,} of {rows:,} rows failed, more than --max-error-rate {max_rate:g}; "
            "run again with a higher rate to continue"
        )


def _check_row_count(progress: Progress, record: RunRecord, output: Path) -> None:
    """Raise OptionError if the number of rows of a finished run differs from the number of inputs."""
    if progress.all.rows != record.rows:
        raise OptionError(
            f"{output}: has {progress.all.rows:,} rows for {record.rows:,} inputs, as if hidden files were "
            f"changed; {REMEDY}"
        )


def _summary(progress: Progress, record: RunRecord) -> dict[str, Any]:
    scored = progress.all.scored
    return {
        "rows": progress.all.rows,
        "errors": progress.all.errors,
        "written": progress.written.rows,
        "seconds": progress.seconds,
        "images_per_second": progress.images_per_second,
        "scored": scored,
        "exact_match": progress.all.exact_matches / scored if scored else None,
        "token_accuracy": progress.all.token_accuracy / scored if scored else None,
        "bundle_id": record.bundle_id,
    }
