"""The order of measurements: every system in every round, so that load on the machine affects all alike."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

from .exports import COMMAND
from .measured_process import (
    MeasuredProcess,
    ProcessFailed,
    ProcessSpec,
    describe_exit,
    drop_from_page_cache,
)
from .results import Prepared, Result

Log = Callable[[str], object]  # takes a line of progress


def measure_starts(spec: ProcessSpec, result: Result, log: Path) -> None:
    """Start three processes: one reads the disk, one the page cache, and the memory of the third is sampled.

    Raises:
        ProcessFailed: it does not load or answer.
    """
    drop_from_page_cache(spec.files)
    for _ in ("disk", "page cache"):
        with MeasuredProcess(spec, log) as process:
            result.starts.append(process.start_s)
    with MeasuredProcess(spec, log, sample_memory=True) as process:
        process.call("warm_up", batches=[1])
        result.peak = process.peak_memory()


def measure_prepared_start(spec: ProcessSpec, result: Result, log: Path) -> None:
    """Run `paligemma-onnx prepare`, start the bundle again, and remove the prepared files, which are large.

    Raises:
        ProcessFailed: it cannot be prepared, or does not load or answer.
    """
    command = [sys.executable, "-c", COMMAND, "prepare", str(spec.bundle)]
    with log.open("ab") as errors:
        ended = subprocess.run([*command, "--json"], check=False, stdout=subprocess.PIPE, stderr=errors)
        if ended.returncode != 0:
            raise ProcessFailed(f"prepare: {describe_exit(ended.returncode)}")
        cost = json.loads(ended.stdout)
        try:
            with MeasuredProcess(spec, log):
                pass  # reads the files from the disk, as the first of `measure_starts` does
            with MeasuredProcess(spec, log, sample_memory=True) as process:
                process.call("warm_up", batches=[1])
                peak = process.peak_memory()
        finally:
            subprocess.run([*command, "--remove"], check=True, stdout=errors, stderr=errors)
    result.prepared = Prepared(cost["seconds"], cost["bytes"], process.start_s, peak)


def persistent_processes(memory_bytes: Mapping[str, int], limit: int) -> frozenset[str]:
    """Return the names of the processes to keep between rounds: the smallest ones.

    Next to them the largest of the others, of which one at a time runs, must fit into memory.

    Args:
        memory_bytes: of each process, by name.
        limit: bytes for all processes together.
    """
    by_size = sorted(memory_bytes, key=memory_bytes.__getitem__)
    for count in range(len(by_size), -1, -1):
        smallest, others = by_size[:count], by_size[count:]
        largest = max((memory_bytes[name] for name in others), default=0)
        if sum(memory_bytes[name] for name in smallest) + largest <= limit:
            return frozenset(smallest)
    return frozenset()


def run_rounds(
    specs: Sequence[ProcessSpec],
    results: Mapping[str, Result],
    *,
    rounds: int,
    batches: Sequence[int],
    pasts: Sequence[int],
    persistent: frozenset[str],
    warm_up: Sequence[int],
    logs: Path,
    log: Log,
    after_round: Callable[[], object],
) -> None:
    """Measure every system once per round; one that fails is left out from then on.

    Args:
        specs: of the processes, in the order in which they are measured.
        results: by name; receive the figures.
        rounds: number of rounds.
        batches: numbers of images per request, each measured in every round.
        pasts: numbers of cached tokens with which decode steps are timed.
        persistent: names of the processes that run from their first round to the end.
        warm_up: numbers of images of the requests that a new process answers before it is measured.
        logs: folder for the processes' stderr.
        log: receives progress.
        after_round: called after each round.
    """
    with ExitStack() as all_rounds:
        running: dict[str, MeasuredProcess] = {}
        for number in range(1, rounds + 1):
            for spec in specs:
                name, result = spec.name, results[spec.name]
                if result.failure is not None:
                    continue
                log(f"round {number} of {rounds}: {name}")
                with ExitStack() as this_round:
                    try:
                        process = running.get(name)
                        if process is None:
                            owner = all_rounds if name in persistent else this_round
                            process = owner.enter_context(MeasuredProcess(spec, logs / f"{name}.log"))
                            if name in persistent:
                                running[name] = process
                            process.call("warm_up", batches=warm_up)
                            result.starts = result.starts or [process.start_s]
                        result.rounds.append(process.call("round", batches=batches, pasts=pasts))
                        if spec.profiled and number == rounds:  # profiling slows down what follows
                            result.kernels = profile(process)
                    except ProcessFailed as failed:
                        result.failure = str(failed)
                        log(f"{name}: {failed}")
            after_round()


def profile(process: MeasuredProcess) -> dict[str, Any]:
    """Return the kernels of a decode step; a failure does not affect the figures of the rounds."""
    try:
        return cast(dict[str, Any], process.call("profile"))
    except ProcessFailed as failed:
        return {"seen": False, "why": str(failed)}
