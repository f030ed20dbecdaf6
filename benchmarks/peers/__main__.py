"""Measure bundles and other tools that run a Gemma decoder of the same size, with random weights.

python -m benchmarks.peers --work DIR --json figures.json
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import cast

import click

from paligemma_onnx.export.precisions import PRECISIONS
from paligemma_onnx.runtime.console import echo_stderr
from paligemma_onnx.runtime.engine.prepared_graphs import CACHE

from ..checkpoint import make_checkpoint
from ..measured_process import ProcessFailed
from ..metrics import prefill_of, step_at_past
from ..options import GB, benchmark, parse_names, write_json
from ..report import Row, export_cost, median_of, process_rows, table
from ..results import Result
from ..rounds import measure_starts, persistent_processes, run_rounds
from ..sizes import Family, Size, benchmark_model
from .catalogue import PEERS
from .decoder import TOKENS
from .systems import PeersPlan, make_systems
from .text_checkpoint import make_text_checkpoint

SIDE = 224  # image side in pixels, for which an image has the 256 tokens of decoder.py

Results = Mapping[str, Result]


def measure(work: Path, plan: PeersPlan, store: Callable[[Results], object]) -> None:
    """Measure every system of the plan.

    Args:
        work: folder for checkpoints, models, environments and logs.
        plan: the systems to measure, and the options.
        store: called with the results by name after each round.
    """
    logs = work / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    os.environ[CACHE] = str(work / "prepared")  # empty: only systems named "prepared" find prepared graphs
    checkpoint = make_checkpoint(work, plan.subject)
    systems = list(make_systems(checkpoint, make_text_checkpoint(checkpoint), plan, logs, echo_stderr))
    results = {system.result.name: system.result for system in systems}
    specs = [system.process for system in systems if system.process is not None]
    for spec in specs:
        echo_stderr(f"starts: {spec.name}")
        try:
            measure_starts(spec, results[spec.name], logs / f"{spec.name}.log")
        except ProcessFailed as failed:
            results[spec.name].failure = str(failed)
            echo_stderr(f"{spec.name}: {failed}")
    peaks = {name: result.peak.proportional for name, result in results.items() if result.peak is not None}
    run_rounds(
        specs,
        results,
        rounds=plan.rounds,
        batches=(1,),
        pasts=(TOKENS,),
        persistent=persistent_processes(peaks, plan.memory_bytes),
        warm_up=(1,),
        logs=logs,
        log=echo_stderr,
        after_round=lambda: store(results),
    )


def report(results: Results, plan: PeersPlan) -> str:
    """Return the table of results in Markdown, with ratios to the first bundle."""
    rows = [
        Row("decoder on disk, GB", export_cost(lambda cost: cost.bytes / GB), ".2f", "less"),
        Row("conversion, s", export_cost(lambda cost: cost.seconds), ".0f"),
        Row("conversion, anonymous memory, GB", export_cost(lambda cost: cost.peak.anonymous / GB), ".2f"),
        *process_rows(),
        Row(f"prefill of {TOKENS} tokens, s", median_of(prefill_of(TOKENS)), ".3f", "less"),
        Row(f"decode step with a {TOKENS}-token cache, s", median_of(step_at_past(TOKENS)), ".4f", "less"),
    ]
    against = next(iter(plan.bundles), next(iter(plan.peers), ""))
    text = table(results, rows, None, against)
    return f"{text}\n{plan.subject.name}, {plan.threads} threads, medians of {plan.rounds} rounds."


@benchmark
@click.option(
    "--peers", callback=partial(parse_names, tuple(PEERS)), help="Other tools.  [default: all of them]"
)
@click.option(
    "--bundles",
    default="int4,int4-compact,int8",
    callback=partial(parse_names, tuple(PRECISIONS)),
    help="Precisions of the bundles; the first one is the baseline of the ratios.",
)
@click.option(
    "--prepared",
    default="",
    callback=partial(parse_names, tuple(PRECISIONS)),
    help="Bundles whose prepared graphs (`paligemma-onnx prepare`) are measured, too.  [default: none]",
)
@click.option(
    "--steps",
    type=click.IntRange(1, 1000),
    default=20,
    help="Decode steps timed per round; the median is reported.",
)
def main(
    work: Path,
    family: str,
    size: str,
    peers: tuple[str, ...] | None,
    bundles: tuple[str, ...],
    prepared: tuple[str, ...],
    rounds: int,
    steps: int,
    threads: int,
    memory_bytes: int,
    export_again: bool,
    json_file: Path | None,
) -> None:
    """Time the text decoder of a model with random weights in bundles and in other tools.

    The command needs Linux. It installs each tool from PyPI into a virtual environment in the work folder,
    and builds llama.cpp from source. A 3B model needs 11 GB of disk, each bundle and tool up to 7 GB more.
    Optimum's float32 model needs 10 GB of disk and 10 GB of memory. The next run reuses the contents of the
    work folder.
    """
    if missing := set(prepared) - set(bundles):
        raise click.UsageError(f"--prepared names {', '.join(sorted(missing))}, which --bundles does not")
    plan = PeersPlan(
        subject=benchmark_model(cast(Family, family), cast(Size, size), SIDE),
        bundles=bundles,
        peers=tuple(PEERS) if peers is None else peers,
        rounds=rounds,
        steps=steps,
        threads=threads,
        memory_bytes=memory_bytes,
        prepared=prepared,
        export_again=export_again,
    )
    started, text = time.perf_counter(), ""

    def store(results: Results) -> None:
        nonlocal text
        text = report(results, plan)
        if json_file is not None:
            figures = {"contenders": {name: result.as_json() for name, result in results.items()}}
            write_json(json_file, plan.as_json(), started, figures)

    measure(work.resolve(), plan, store)
    click.echo(text)


if __name__ == "__main__":
    main()
