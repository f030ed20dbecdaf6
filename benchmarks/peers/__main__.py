"""Measures bundles beside other tools that run a Gemma decoder of the same size, with random weights.

python -m benchmarks.peers --work DIR --json figures.json
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import cast

import click

from paligemma_onnx.runtime.console import echo_stderr

from ..checkpoint import make_checkpoint
from ..exports import known_precisions
from ..measured_process import ContenderFailed
from ..metrics import prefill_of, step_at_past
from ..options import GB, benchmark, listed, write_json
from ..report import Row, made, process_rows, table, typical
from ..results import Result
from ..rounds import first_starts, run_rounds
from ..sizes import Family, Size, subject
from .catalogue import PEERS
from .decoder import TOKENS
from .systems import Plan, entrants
from .text_checkpoint import make_text_checkpoint

SIDE = 224  # pixels: the 256 image tokens of decoder.py

Results = Mapping[str, Result]


def measure(work: Path, plan: Plan, store: Callable[[Results], object]) -> None:
    """Do all of it.

    Args:
        work: holds checkpoints, models, environments and logs.
        plan: what to measure.
        store: takes the results after each round.
    """
    logs = work / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    echo_stderr(f"checkpoint {work / plan.subject.name}")
    checkpoint = make_checkpoint(work, plan.subject, lambda _: None)
    found = list(entrants(checkpoint, make_text_checkpoint(checkpoint), plan, logs, echo_stderr))
    results = {result.name: result for result, _ in found}
    contenders = [contender for _, contender in found if contender is not None]
    for contender in contenders:
        echo_stderr(f"starts: {contender.name}")
        try:
            first_starts(contender, results[contender.name], logs / f"{contender.name}.log")
        except ContenderFailed as failed:
            results[contender.name].failure = str(failed)
            echo_stderr(f"{contender.name}: {failed}")
    run_rounds(
        contenders,
        results,
        rounds=plan.rounds,
        batches=(1,),
        pasts=(TOKENS,),
        room=plan.room,
        logs=logs,
        say=echo_stderr,
        finished=lambda: store(results),
    )


def report(results: Results, plan: Plan) -> str:
    """The table, against the first bundle, and who the others are."""
    rows = [
        Row("decoder on disk, GB", made(lambda export: export.bytes / GB), ".2f", "less"),
        Row("made in, s", made(lambda export: export.seconds), ".0f"),
        Row("made with, anonymous GB", made(lambda export: export.peak.anonymous / GB), ".2f"),
        *process_rows(),
        Row(f"prefill of {TOKENS} tokens, s", typical(prefill_of(TOKENS)), ".3f", "less"),
        Row(f"step behind {TOKENS} tokens, s", typical(step_at_past(TOKENS)), ".4f", "less"),
    ]
    against = next(iter(plan.bundles), next(iter(plan.peers), ""))

    def lines() -> Iterator[str]:
        yield table(results, rows, None, against)
        yield f"{plan.subject.name}, {plan.threads} threads, medians of {plan.rounds} rounds."
        for result in results.values():
            if result.tool is not None:
                yield f"{result.name}: {result.tool}."

    return "\n".join(lines())


@benchmark
@click.option("--peers", callback=partial(listed, tuple(PEERS)), help="Tools.  [default: all]")
@click.option(
    "--bundles",
    default="int4,int4-compact,int8",
    callback=partial(listed, known_precisions()),
    help="Precisions of ours; the others are compared with the first.",
)
@click.option(
    "--steps", type=click.IntRange(1, 1000), default=20, help="Timed in a round; their median counts."
)
def main(
    work: Path,
    family: str,
    size: str,
    peers: tuple[str, ...],
    bundles: tuple[str, ...],
    rounds: int,
    steps: int,
    threads: int,
    room: int,
    export_again: bool,
    json_file: Path | None,
) -> None:
    """Run a random model's text decoder in bundles and in other tools, by turns.

    Linux only. Installs each tool from PyPI into an environment in the work folder, llama.cpp from source.
    A model of 3B needs 11 GB of disk, each bundle and tool up to 7 more; Optimum's float32 takes 10, and as
    much memory. Everything in the work folder is used again by the next run.
    """
    plan = Plan(
        subject=subject(cast(Family, family), cast(Size, size), SIDE),
        bundles=bundles,
        peers=peers,
        rounds=rounds,
        steps=steps,
        threads=threads,
        room=room,
        export_again=export_again,
    )
    started, text = time.perf_counter(), ""

    def store(results: Results) -> None:
        nonlocal text
        text = report(results, plan)
        if json_file is not None:
            described = asdict(plan) | {"subject": plan.subject.name, "tokens": TOKENS}
            contenders = {name: result.as_json() for name, result in results.items()}
            write_json(json_file, described, started, {"contenders": contenders})

    measure(work.resolve(), plan, store)
    click.echo(text)


if __name__ == "__main__":
    main()
