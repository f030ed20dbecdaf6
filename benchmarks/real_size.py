"""Measures a model of full size with random weights, as bundles and in transformers.

python -m benchmarks.real_size --work DIR --json figures.json
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import cast

import click

from paligemma_onnx.runtime.console import echo_stderr
from paligemma_onnx.runtime.engine.prepared_graphs import CACHE
from paligemma_onnx.runtime.text.tokenizer import PromptTokenizer

from . import plot
from .checkpoint import make_checkpoint
from .exports import known_precisions
from .lower_bounds import prefill_operations
from .measured_process import Contender, ContenderFailed
from .metrics import PROMPT
from .options import benchmark, listed, write_json
from .report import Bounds, bounds, rows, table
from .results import Result
from .rounds import first_starts, prepared_start, run_rounds
from .sizes import SIDES, Family, Size, subject
from .systems import BYTES, Plan, bundles, references

LIMITS = "limits"
BUFFER = 1 << 30  # bytes that are read to see how fast: more than any cache of a processor holds
TRIAL_BUFFER = 1 << 26  # of a miniature, whose figures mean nothing
PASTS = (264, 1024, 4096)  # slots of cache: about what one picture of 224, of 448 and of 896 pixels takes

Store = Callable[[Mapping[str, Result], Result, Bounds | None], object]


def measure(work: Path, plan: Plan, store: Store) -> None:
    """Do all of it.

    Args:
        work: holds checkpoint, bundles and logs.
        plan: what to measure.
        store: takes the contenders' results, those of the limits, and what follows from these, after each
            round.
    """
    logs = work / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    os.environ[CACHE] = str(work / "prepared")  # of the processes that are started
    echo_stderr(f"checkpoint {work / plan.subject.name}")
    checkpoint = make_checkpoint(work, plan.subject, lambda _: None)
    entrants = [*bundles(checkpoint, plan, logs, echo_stderr), *references(checkpoint, plan)]
    results = {result.name: result for result, _ in entrants}
    contenders = [contender for _, contender in entrants if contender is not None]
    for contender in contenders:
        echo_stderr(f"starts: {contender.name}")
        try:
            log = logs / f"{contender.name}.log"
            first_starts(contender, results[contender.name], log)
            if contender.bundle is not None:
                prepared_start(contender, results[contender.name], log)
        except ContenderFailed as failed:
            results[contender.name].failure = str(failed)
            echo_stderr(f"{contender.name}: {failed}")

    limits = Result(LIMITS)
    asked = {"threads": plan.threads, "buffer": TRIAL_BUFFER if plan.subject.is_tiny else BUFFER}
    prompt = PromptTokenizer.load(checkpoint / "tokenizer.json").encode(PROMPT, plan.subject.pieces)
    config = plan.subject.config
    operations = prefill_operations(config, config.vision_config.num_patches + len(prompt))
    run_rounds(
        [*contenders, Contender(LIMITS, "benchmarks.hardware_limits", "Limits", asked)],
        results | {LIMITS: limits},
        rounds=plan.rounds,
        batches=plan.batches,
        pasts=plan.pasts,
        room=plan.room,
        logs=logs,
        say=echo_stderr,
        finished=lambda: store(results, limits, bounds(limits, operations)),
    )


def _numbers(_context: click.Context, _option: click.Parameter, text: str) -> tuple[int, ...]:
    """Numbers between commas, 1 upwards."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"{text!r} is not a list of numbers such as 1,4")
    return tuple(dict.fromkeys(map(int, parts)))


@benchmark
@click.option("--side", type=click.Choice([str(side) for side in SIDES]), default="224", help="Pixels.")
@click.option(
    "--precisions", callback=partial(listed, known_precisions()), help="Of bundles.  [default: all]"
)
@click.option(
    "--reference", default="bf16,fp32", callback=partial(listed, tuple(BYTES)), help="transformers."
)
@click.option("--batches", default="1,4,8", callback=_numbers, help="Pictures of a request.")
@click.option(
    "--pasts", default=",".join(map(str, PASTS)), callback=_numbers, help="Slots of cache to step behind."
)
@click.option("--tokens", type=click.IntRange(2, 1000), default=20, help="Of each answer.")
@click.option("--plot", "plot_file", type=click.Path(path_type=Path), help="Draw the main ones here.")
def main(
    work: Path,
    family: str,
    side: str,
    size: str,
    precisions: tuple[str, ...],
    reference: tuple[str, ...],
    batches: tuple[int, ...],
    pasts: tuple[int, ...],
    rounds: int,
    tokens: int,
    threads: int,
    room: int,
    export_again: bool,
    json_file: Path | None,
    plot_file: Path | None,
) -> None:
    """Export a random model, run it beside transformers, and hold both against what the machine can do.

    Linux only. A model of 3B needs 6 GB of disk, each bundle up to 12 more. Everything in the work folder is
    used again by the next run.
    """
    if plot_file is not None and not plot.is_installed():
        raise click.UsageError(plot.ADVICE)
    plan = Plan(
        subject=subject(cast(Family, family), cast(Size, size), int(side)),
        precisions=precisions,
        references=reference,
        batches=tuple(dict.fromkeys((1, *batches))),
        pasts=pasts,
        rounds=rounds,
        tokens=tokens,
        threads=threads,
        room=room,
        export_again=export_again,
    )
    started, text = time.perf_counter(), ""

    def store(results: Mapping[str, Result], limits: Result, limit: Bounds | None) -> None:
        nonlocal text
        text = table(results, rows(plan.batches, plan.pasts, limit), limit)
        if json_file is not None:
            figures = {
                "limits": limits.as_json(),
                "bounds": None if limit is None else asdict(limit) | {"prefill_s": limit.prefill_s()},
                "contenders": {name: result.as_json() for name, result in results.items()},
            }
            write_json(json_file, asdict(plan) | {"subject": plan.subject.name}, started, figures)
        if plot_file is not None:
            plot.draw(plot_file, results, plan.pasts, limit)

    measure(work.resolve(), plan, store)
    click.echo(text)


if __name__ == "__main__":
    main()
