"""Holds bundles for a GPU to what they promise, on the GPU of this machine, in eight minutes at most.

python -m benchmarks.cuda --work DIR --json figures.json

It exports the model that ships and compares tokens, makes a random model of full size and times it beside
torch, and tries what must be refused. Nothing is downloaded.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, cast

import click

from paligemma_onnx.runtime.cli.bench import batch_sizes
from paligemma_onnx.runtime.cli.parameters import DeviceType
from paligemma_onnx.runtime.console import echo_stderr

from ..exports import known_precisions
from ..measured_process import Contender
from ..options import listed, write_json
from ..sizes import FAMILIES, SIDES, SIZES, Family, Size, subject
from .bundles import Bundles
from .checks import passed, verdicts
from .correctness import compare
from .plan import EXACT, ON_GPU, Plan
from .record import Budget, Found, Part, Record
from .refusals import refuse
from .speed import Bench, bandwidth, compiled, eager
from .table import report

FAILED = 6  # exit code: a comparison failed
STEPS, ROWS = 50, 8  # of what copies are looked for in
PLENTY = 1 << 50  # bytes of device memory, where nobody has said how many are free


def machine(bench: Bench) -> Iterator[Found]:
    """The device and its driver; raises ContenderFailed."""
    with bench.running(
        Contender("device", "benchmarks.cuda.device", "Device", {"device": bench.plan.device})
    ) as running:
        yield running.call("facts")


def growth(bench: Bench) -> Iterator[Found]:
    """Memory over many requests; raises ContenderFailed, or ExportFailed."""
    folder, _ = bench.bundles.shipped(bench.plan.growing)
    arguments = {"folder": str(folder), "device": bench.plan.device}
    with bench.running(Contender("growth", "benchmarks.cuda.memory_growth", "Growth", arguments)) as running:
        yield running.call("over", requests=bench.plan.short_requests)


def copies(bench: Bench) -> Iterator[Found]:
    """What passes between machine and device in a step; raises ContenderFailed, or ExportFailed."""
    folder, _ = bench.bundles.shipped(bench.plan.growing)
    arguments = {"folder": str(folder), "device": bench.plan.device}
    with bench.running(Contender("copies", "benchmarks.cuda.transfers", "Traffic", arguments)) as running:
        found = {"nodes": running.call("nodes")}
        yield found
        yield found | {"step": running.call("copies", rows=ROWS, count=STEPS)}


def refusals(bench: Bench) -> Iterator[Found]:
    """What is asked for and cannot be had; raises what `refuse` raises."""
    folder, _ = bench.bundles.shipped(bench.plan.growing)
    yield from refuse(folder, bench.plan.device, bench.logs, bench.budget)


def parts(bench: Bench, record: Record) -> Iterator[Part]:
    """All, in the order of their weight; what is short comes while bundles of full size are still exported.

    The seconds that each needs at least are of a server with 16 cores and a GPU of its time, and rough.
    """

    def free_bytes() -> int:
        free: int = record.found.get("device", {}).get("free_bytes", PLENTY)
        return free

    yield Part("device", 5, lambda: machine(bench))
    yield Part("correctness", 30, lambda: compare(bench.plan, bench.bundles, bench.logs, bench.budget))
    yield Part("refusals", 15, lambda: refusals(bench))
    if bench.plan.kind == "cuda":
        yield Part("growth", 15, lambda: growth(bench))
        yield Part("copies", 15, lambda: copies(bench))
    yield Part("bandwidth", 10, lambda: bandwidth(bench))
    yield Part("speed", 30, lambda: eager(bench, free_bytes()))
    yield Part("compiled", 60, lambda: compiled(bench, free_bytes()))


def measure(bench: Bench, record: Record) -> None:
    """Do all of it."""
    for part in parts(bench, record):
        bench.say(f"{part.name}, {bench.budget.left():.0f} s are left")
        course = record.run(part)
        if course.why is not None:
            bench.say(f"{part.name} {course.state}: {course.why}")


@click.command(context_settings={"show_default": True, "max_content_width": 110})
@click.option(
    "--work", type=click.Path(path_type=Path), required=True, help="For all that is made, and logs."
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all that is found here.")
@click.option("--device", type=DeviceType(), default="cuda", help="cuda, cuda:N, or cpu to try the harness.")
@click.option("--family", type=click.Choice(FAMILIES), default="paligemma", help="Which PaliGemma is timed.")
@click.option("--size", type=click.Choice(SIZES), default="3b", help="`tiny` tries the harness.")
@click.option("--side", type=click.Choice([str(side) for side in SIDES]), default="224", help="Pixels.")
@click.option(
    "--precisions",
    default="",
    show_default=False,
    callback=partial(listed, known_precisions()),
    help="Timed, the first beside torch.  [default: bf16,int4-bf16; on a CPU fp32]",
)
@click.option(
    "--compared",
    callback=partial(listed, (EXACT, *ON_GPU)),
    default=",".join((EXACT, *ON_GPU)),
    help="Whose tokens are compared.",
)
@click.option("--rounds", type=click.IntRange(1), default=3, help="Medians of so many are reported.")
@click.option("--requests", type=click.IntRange(1), default=3, help="Of each batch in a round.")
@click.option("--batches", default="1,8,32", callback=batch_sizes, help="Pictures of a request.")
@click.option("--tokens", type=click.IntRange(2, 200), default=64, help="Of each answer that is timed.")
@click.option("--scenes", type=click.IntRange(1), default=120, help="Drawn, and asked about.")
@click.option("--short-requests", type=click.IntRange(10), default=1000, help="Over which memory is level.")
@click.option("--budget", type=click.FloatRange(1), default=480.0, help="Seconds for everything.")
def main(
    work: Path,
    json_file: Path | None,
    device: str,
    family: str,
    size: str,
    side: str,
    precisions: tuple[str, ...],
    compared: tuple[str, ...],
    rounds: int,
    requests: int,
    batches: tuple[int, ...],
    tokens: int,
    scenes: int,
    short_requests: int,
    budget: float,
) -> None:
    """Compare, try and time bundles on a GPU.

    Ends with code 6 where numbers, memory or errors are not what was promised; speed that is missed is said
    and no error. A model of 3B needs 15 GB of disk. What is in the work folder is used again by the next run.
    """
    if device == "auto":
        raise click.UsageError("--device is cuda, cuda:N or cpu")
    started, limit = time.perf_counter(), Budget(budget)
    default = ("fp32",) if device == "cpu" else ("bf16", "int4-bf16")
    plan = Plan(
        subject=subject(cast("Family", family), cast("Size", size), int(side)),
        device=device,
        compared=compared,
        timed=precisions or default,
        batches=tuple(dict.fromkeys((1, *batches))),
        rounds=rounds,
        requests=requests,
        tokens=tokens,
        scenes=scenes,
        short_requests=short_requests,
        budget_s=budget,
    )
    described = asdict(plan) | {"subject": plan.subject.name}

    def store(document: Mapping[str, Any]) -> None:
        if json_file is not None:
            found = verdicts(document, plan)
            judged = {"promises": [asdict(one) for one in found], "passed": passed(found)}
            unfinished = json_file.with_name(f".{json_file.name}")
            write_json(unfinished, described, started, {**document, **judged})
            unfinished.replace(json_file)

    work = work.resolve()
    logs = work / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    asked = {"family": family, "size": size, "side": int(side), "device": device}
    bundles = Bundles(work, plan, asked, limit)
    record = Record(limit, store)
    try:
        measure(Bench(plan, bundles, limit, logs, echo_stderr), record)
    finally:
        bundles.stop()
    found = verdicts(record.document(), plan)
    click.echo(report(record.document(), plan, found))
    if not passed(found):
        sys.exit(FAILED)


if __name__ == "__main__":
    main()
