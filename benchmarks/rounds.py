"""Measure every system once in every round, so that other load on the machine affects all systems equally."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

from paligemma_onnx.runtime.engine.prepared_graphs import CACHE

from .exports import COMMAND
from .measured_process import (
    MeasuredProcess,
    ProcessFailed,
    ProcessSpec,
    describe_exit,
    drop_from_page_cache,
)
from .processor_load import LoadMeter
from .results import Prepared, Result

Log = Callable[[str], object]  # function that prints a line of progress


def measure_starts(spec: ProcessSpec, result: Result, log: Path) -> None:
    """Start a system three times, and store the seconds of two starts and the peak memory in `result`.

    The first start reads the files from the disk, the second from the page cache. The third process answers a
    request while its memory is measured.

    Raises:
        ProcessFailed: a process does not load the system or does not answer.
    """
    drop_from_page_cache(spec.files)
    for _ in ("disk", "page cache"):
        with MeasuredProcess(spec, log) as process:
            result.starts.append(process.start_s)
    with MeasuredProcess(spec, log, sample_memory=True) as process:
        process.call("warm_up", batches=[1])
        result.peak = process.peak_memory()


def measure_prepared_start(spec: ProcessSpec, result: Result, log: Path) -> None:
    """Run `paligemma-onnx prepare`, and store the time and the peak memory of a start in `result`.

    The prepared files are removed at the end, because they are large.

    Raises:
        ProcessFailed: `prepare` fails, or a process does not load the bundle or does not answer.
    """
    assert spec.bundle is not None
    cost = prepare_graphs(spec.bundle, Path(os.environ[CACHE]), log)
    try:
        with MeasuredProcess(spec, log):
            pass  # the first start reads the prepared files from the disk
        with MeasuredProcess(spec, log, sample_memory=True) as process:
            process.call("warm_up", batches=[1])
            peak = process.peak_memory()
    finally:
        command = [sys.executable, "-c", COMMAND, "prepare", str(spec.bundle), "--remove"]
        with log.open("ab") as output:
            subprocess.run(command, check=True, stdout=output, stderr=output)
    result.prepared = Prepared(cost["seconds"], cost["bytes"], process.start_s, peak)


def prepare_graphs(bundle: Path, cache: Path, log: Path) -> dict[str, Any]:
    """Run `paligemma-onnx prepare` for a bundle with the given cache folder, and return its JSON output.

    Raises:
        ProcessFailed: `prepare` fails.
    """
    command = [sys.executable, "-c", COMMAND, "prepare", str(bundle), "--json"]
    environment = {**os.environ, CACHE: str(cache)}
    with log.open("ab") as errors:
        ended = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=errors, env=environment)
    if ended.returncode != 0:
        raise ProcessFailed(f"prepare: {describe_exit(ended.returncode)}")
    cost: dict[str, Any] = json.loads(ended.stdout)
    return cost


def persistent_processes(memory_bytes: Mapping[str, int], limit: int) -> frozenset[str]:
    """Return the names of the processes that stay loaded between rounds.

    As many of the smallest processes as possible stay loaded. The other processes run one at a time, so the
    largest of these must fit into memory together with the loaded processes.

    Args:
        memory_bytes: memory of each process, by name.
        limit: maximum memory of all processes together, in bytes.
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
    sample_memory: bool = False,
    logs: Path,
    log: Log,
    after_round: Callable[[], object],
) -> None:
    """Measure every system once per round. After a failure, the later rounds omit the system.

    Args:
        specs: the processes of the systems, in the order of measurement.
        results: results by name, in which the figures are stored.
        rounds: number of rounds.
        batches: numbers of images per request; every round measures each of them.
        pasts: numbers of cached tokens with which decode steps are timed.
        persistent: names of the processes that run from their first round to the end.
        warm_up: numbers of images of the requests that a new process answers before it is measured.
        sample_memory: measure the peak memory of the first process of each system, from its start to the end
            of its warm-up requests.
        logs: folder for the stderr of the processes.
        log: prints a line of progress.
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
                            sampled = sample_memory and result.peak is None
                            started = MeasuredProcess(spec, logs / f"{name}.log", sample_memory=sampled)
                            process = owner.enter_context(started)
                            if name in persistent:
                                running[name] = process
                            process.call("warm_up", batches=warm_up)
                            result.starts = result.starts or [process.start_s]
                            if sampled:
                                result.peak = process.end_sampling()
                        load = LoadMeter(process.pid)
                        result.rounds.append(process.call("round", batches=batches, pasts=pasts))
                        result.other_processors.append(load.other_processors())
                        if spec.profiled and number == rounds:  # profiling slows down later measurements
                            result.kernels = profile(process)
                    except ProcessFailed as failed:
                        result.failure = str(failed)
                        log(f"{name}: {failed}")
            after_round()


def profile(process: MeasuredProcess) -> dict[str, Any]:
    """Return the kernels of a decode step, or the reason why they are unknown.

    An error while profiling does not affect the figures of the rounds.
    """
    try:
        return cast(dict[str, Any], process.call("profile"))
    except ProcessFailed as failed:
        return {"seen": False, "why": str(failed)}
