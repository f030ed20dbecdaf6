"""Measure the parts of a bundle's start and its memory, with and without prepared graphs.

python -m benchmarks.start BUNDLE --work DIR --json figures.json
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import click
from PIL import Image

from paligemma_onnx.runtime.bundle.manifest import read_manifest
from paligemma_onnx.runtime.console import echo_stderr
from paligemma_onnx.runtime.diagnostics.benchmark import images_for
from paligemma_onnx.runtime.engine.devices import Placement, available_threads
from paligemma_onnx.runtime.engine.prepared_graphs import CACHE, find_prepared

from .measured_process import MeasuredProcess, ProcessSpec
from .options import write_json
from .rounds import prepare_graphs
from .start_parts import DECODE, LOAD, PREFILL, Span

LOADED, FIRST_TOKEN, SECOND_TOKEN = "loaded", "first token", "second token"
BUNDLE, PREPARED, LOW_MEMORY = "bundle", "prepared", "prepared, low memory"  # ways to start
TOKENS = 8  # of each answer
GB = 1e9  # bytes


@dataclass
class Starts:
    """Figures of the processes that started in one way."""

    spans: list[list[Span]] = field(default_factory=list)  # of each process
    processor_s: list[dict[str, float]] = field(default_factory=list)
    loaded: list[dict[str, int]] = field(default_factory=list)  # memory of each process after loading, bytes
    answered: list[dict[str, int]] = field(default_factory=list)  # memory after the answers, bytes
    load_average: list[float] = field(default_factory=list)  # of the machine, before each start

    def seconds(self, part: str, run: int = 0) -> float:
        """Return the median duration of a part; of a part that ran several times, the run with an index."""
        runs = [[span for span in spans if span.part == part][run] for spans in self.spans]
        return median(span.end_s - span.begin_s for span in runs)

    def begin(self, part: str) -> float:
        """Return the median of the seconds from the start of the process until a part began."""
        return median(_first(spans, part).begin_s for spans in self.spans)

    def end(self, part: str) -> float:
        """Return the median of the seconds from the start of the process until a part ended."""
        return median(_first(spans, part).end_s for spans in self.spans)

    def milestones(self) -> dict[str, float]:
        """Return the median seconds from the start of the process until the milestones of a start."""
        return {LOADED: self.end(LOAD), FIRST_TOKEN: self.end(PREFILL), SECOND_TOKEN: self.end(DECODE)}

    def as_json(self) -> dict[str, Any]:
        """Return a dict of all figures, with the medians of the milestones."""
        return asdict(self) | {"milestones": self.milestones()}


def _first(spans: list[Span], part: str) -> Span:
    return next(span for span in spans if span.part == part)


def measure(starts: Starts, options: Mapping[str, Any], image: Path, log: Path, *, requests: int) -> None:
    """Start a process, let it answer requests, and add its figures to `starts`.

    Args:
        starts: the figures.
        options: arguments of `start_parts.Start`, without `started`.
        image: image of the requests.
        log: file to which the stderr of the process is appended.
        requests: number of requests.
    """
    starts.load_average.append(os.getloadavg()[0])
    arguments = {**options, "started": time.perf_counter()}
    spec = ProcessSpec("start", "benchmarks.start_parts", "Start", arguments)
    with MeasuredProcess(spec, log) as process:
        starts.loaded.append(process.call("memory"))
        for _ in range(requests):
            process.call("answer", image=str(image), tokens=TOKENS)
        starts.answered.append(process.call("memory"))
        parts = process.call("parts")
    starts.spans.append([Span(**span) for span in parts["spans"]])
    starts.processor_s.append(parts["processor_s"])


def table(results: Mapping[str, Starts]) -> str:
    """Return the medians as text: a line for each part and milestone, and for the memory."""
    lines = []
    for way, starts in results.items():
        lines.append(f"{way}\n  {'part':32} {'began':>8} {'seconds':>8} {'last run':>8}")
        parts = dict.fromkeys(span.part for span in sorted(starts.spans[0], key=lambda span: span.begin_s))
        for part in parts:
            seconds = f"{starts.seconds(part):8.3f} {starts.seconds(part, -1):8.3f}"
            lines.append(f"  {part:32} {starts.begin(part):8.3f} {seconds}")
        lines += [f"  {name:32} {'':8} {end:8.3f}" for name, end in starts.milestones().items()]
        for moment in starts.processor_s[0]:
            used = median(sample[moment] for sample in starts.processor_s)
            lines.append(f"  {f'processor time until {moment}':32} {'':8} {used:8.3f}")
        for moment, samples in ((LOADED, starts.loaded), ("answered", starts.answered)):
            memory = {name: median(sample[name] for sample in samples) / GB for name in samples[0]}
            figures = ", ".join(f"{name} {size:.2f}" for name, size in memory.items())
            lines.append(f"  memory when {moment}, GB: {figures}")
    return "\n".join(lines)


@click.command(context_settings={"show_default": True, "max_content_width": 110})
@click.argument("bundle", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--work",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder for prepared graphs and logs; the next run reuses prepared graphs.",
)
@click.option("--rounds", type=click.IntRange(1), default=5, help="Processes of each way to start.")
@click.option("--requests", type=click.IntRange(1), default=3, help="Requests that each process answers.")
@click.option("--threads", type=click.IntRange(1), default=available_threads, help="CPU threads.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all figures to this file.")
def main(bundle: Path, work: Path, rounds: int, requests: int, threads: int, json_file: Path | None) -> None:
    """List what happens between the start of a process and the first tokens of an answer, part by part.

    In each round, one process opens the graphs of BUNDLE, another opens the graphs that `paligemma-onnx
    prepare` stored, and a third does so with `low_memory`. Files are in the page cache, because a process of
    each kind runs before the first round. The figures are medians of the rounds. The command needs Linux.
    """
    started = time.perf_counter()
    work.mkdir(parents=True, exist_ok=True)
    bundle, image, log = bundle.resolve(), (work / "image.png").resolve(), work / "processes.log"
    Image.fromarray(images_for(None, 1)[0]).save(image)
    ways, manifest = {BUNDLE: False}, read_manifest(bundle)
    if not manifest.precision.is_float32:  # `prepare` has nothing to do for float32
        ways |= {PREPARED: False, LOW_MEMORY: True}
        os.environ[CACHE] = str(work.resolve() / PREPARED)
        if find_prepared(manifest, Placement("cpu", threads)) is None:
            echo_stderr("prepare")
            prepare_graphs(bundle, work.resolve() / PREPARED, log)
    results = {way: Starts() for way in ways}
    for number in range(rounds + 1):
        for way, low_memory in ways.items():
            echo_stderr(f"round {number} of {rounds}: {way}" if number else f"warm up: {way}")
            os.environ[CACHE] = str(work.resolve() / ("empty" if way == BUNDLE else PREPARED))
            options = {"folder": str(bundle), "threads": threads, "low_memory": low_memory}
            measure(results[way] if number else Starts(), options, image, log, requests=requests)
    if json_file is not None:
        plan = {"bundle": bundle.name, "rounds": rounds, "requests": requests, "threads": threads}
        write_json(json_file, plan, started, {way: starts.as_json() for way, starts in results.items()})
    click.echo(table(results))


if __name__ == "__main__":
    main()
