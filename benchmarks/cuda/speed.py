"""Bundles and torch by turns, each in a process of its own, and what the GPU's memory allows at best."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from paligemma_onnx.runtime.bundle.manifest import read_manifest

from ..exports import ExportFailed
from ..lower_bounds import weight_bytes
from ..measured_process import Contender, ContenderFailed, Running
from ..results import Result
from ..rounds import Say, who_stays
from .bundles import Bundles
from .device import nvidia_smi
from .plan import Plan, index_of
from .record import Budget, Found

EAGER, COMPILED = "torch eager", "torch compiled"
BUFFER, TRIAL_BUFFER = 4 << 30, 1 << 26  # bytes that are read to see how fast; of a miniature
# Device memory of a process beyond its weights: CUDA's context, kernels, a batch's cache and inner values.
BESIDE = 3 * 10**9  # bytes
COMPILING_S = 180.0  # after which compiled steps are given up
PROFILED_ROWS = 1


@dataclass(frozen=True)
class Bench:
    """What all parts need."""

    plan: Plan
    bundles: Bundles
    budget: Budget
    logs: Path
    say: Say

    def running(self, contender: Contender, limit_s: float | None = None) -> Running:
        """A contender's process, ended when time is up; raises ContenderFailed."""
        left = self.budget.left()
        log = self.logs / f"{contender.name.replace(' ', '-')}.log"
        return Running(contender, log, limit_s=min(left, limit_s or left))

    def bundle(self, precision: str) -> tuple[Result, Contender]:
        """One of ours; raises ExportFailed, or TimeoutError."""
        folder, made = self.bundles.timed(precision)
        size = weight_bytes(folder / read_manifest(folder).graphs.decode.file)
        result = Result(precision, export=made, decoder_bytes=size)
        return result, Contender(precision, "benchmarks.cuda.bundle_timing", "Ours", self._arguments(folder))

    def torch(self, name: str) -> tuple[Result, Contender]:
        """torch, eager or compiled; raises TimeoutError."""
        arguments = self._arguments(self.bundles.drawn())
        if find_spec("transformers") is None:
            result = Result(name, tool="our own model in torch, bfloat16: transformers is not installed")
            return result, Contender(name, "benchmarks.cuda.torch_model", "OwnTorch", arguments)
        kind = "Eager" if name == EAGER else "Compiled"
        return Result(name), Contender(name, "benchmarks.cuda.torch_timing", kind, arguments)

    def _arguments(self, folder: Path) -> dict[str, Any]:
        return {"folder": str(folder), "device": self.plan.device, "tokens": self.plan.tokens}


def bandwidth(bench: Bench) -> Iterator[Found]:
    """How fast memory is read; raises ContenderFailed."""
    size = TRIAL_BUFFER if bench.plan.subject.is_tiny else BUFFER
    arguments = {"device": bench.plan.device, "size": size}
    with bench.running(
        Contender("bandwidth", "benchmarks.cuda.bandwidth", "Bandwidth", arguments)
    ) as running:
        found: Found = running.call("measure")
    found["read_bytes_per_s"] = max(found["sum_bytes_per_s"], found["copy_bytes_per_s"])
    yield found


def eager(bench: Bench, free_bytes: int) -> Iterator[Found]:
    """Every bundle and torch as it is written; raises ExportFailed, or TimeoutError."""
    entrants = list[tuple[Result, Contender | None]]()
    for precision in bench.plan.timed:
        try:
            entrants.append(bench.bundle(precision))
        except (ExportFailed, ContenderFailed) as failed:
            entrants.append((Result(precision, failure=f"export: {failed}"), None))
        bench.say(f"{precision} is exported")
    entrants.insert(1, bench.torch(EAGER))  # ours and torch by turns
    yield from by_turns(bench, entrants, bench.plan.batches, free_bytes, profiled=bench.plan.timed)


def compiled(bench: Bench, free_bytes: int) -> Iterator[Found]:
    """torch with compiled steps and, by turns, the first bundle; of one picture: others compile anew.

    Raises:
        ContenderFailed: torch does not compile, or takes too long for it.
        TimeoutError: time is up.
    """
    if find_spec("transformers") is None:
        raise ContenderFailed("transformers is not installed, whose steps would be compiled")
    entrants = [bench.torch(COMPILED), bench.bundle(bench.plan.timed[0])]
    turns = by_turns(bench, entrants, bench.plan.batches[:1], free_bytes)
    for found in turns:
        yield found
        if (why := found["contenders"][COMPILED]["failure"]) is not None:
            turns.close()  # the bundle has been timed before
            raise ContenderFailed(why)


def by_turns(
    bench: Bench,
    entrants: Sequence[tuple[Result, Contender | None]],
    batches: Sequence[int],
    free_bytes: int,
    profiled: Sequence[str] = (),
) -> Generator[Found]:
    """Ask everyone once a round; who fails is left out from then on.

    Args:
        bench: how often, and until when.
        entrants: who; None: already failed.
        batches: pictures of a request.
        free_bytes: of device memory, for processes that stay between rounds.
        profiled: names of those whose step is looked into when all is timed.
    """
    results = {result.name: result for result, _ in entrants}
    every = [contender for _, contender in entrants if contender is not None]
    needs = {one.name: _bytes_of(Path(one.arguments["folder"])) + BESIDE for one in every}
    staying = who_stays(needs, free_bytes)
    profiles: dict[str, Any] = {}
    smi: dict[str, str] | None = None  # clocks and power while it is still warm

    def found() -> Found:
        contenders = {name: result.as_json() for name, result in results.items()}
        return {"contenders": contenders, "profiles": profiles, "nvidia_smi": smi}

    with ExitStack() as kept:
        running: dict[str, Running] = {}

        def of(contender: Contender, turn: ExitStack) -> Running:
            """Its process, which has answered once."""
            name = contender.name
            if name not in running:
                owner = kept if name in staying else turn
                limit_s = COMPILING_S if name == COMPILED else None
                process = owner.enter_context(bench.running(contender, limit_s))
                results[name].starts.append(process.start_s)
                process.call("once", batches=list(batches))
                if name not in staying:
                    return process
                running[name] = process
            return running[name]

        for number in range(1, bench.plan.rounds + 1):
            for contender in every:
                result = results[contender.name]
                if result.failure is not None:
                    continue
                bench.say(f"round {number} of {bench.plan.rounds}: {contender.name}")
                with ExitStack() as turn:
                    try:
                        process = of(contender, turn)
                        options = {"batches": list(batches), "requests": bench.plan.requests}
                        result.rounds.append(process.call("round", **options))
                    except ContenderFailed as failed:
                        result.failure = str(failed)
                        bench.say(f"{contender.name}: {failed}")
                smi = nvidia_smi(index_of(bench.plan.device)) if bench.plan.kind == "cuda" else None
                yield found()
        for contender in every:
            if contender.name in profiled and results[contender.name].failure is None:
                with ExitStack() as turn:
                    try:
                        profiles[contender.name] = of(contender, turn).call("profile", rows=PROFILED_ROWS)
                    except ContenderFailed as failed:
                        profiles[contender.name] = {"seen": False, "why": str(failed)}
                yield found()


def _bytes_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())
