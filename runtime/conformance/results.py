"""Results of the comparison of graphs in several runtimes, and their limits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

# Largest errors that pass, relative to the largest value of the tensor. In float32 runtimes compute the same
# arithmetic in a different order: measured errors are 1e-7 to 4e-5, and a wrong operator gives over 1e-3.
# Quantised graphs leave the precision of the products open: kernels may round activations to 8 bits or not.
# Measured differences are up to 3.1e-2; unrelated tensors differ by about 1.
FLOAT32_LIMIT = 1e-4
ROUNDED_LIMIT = 0.1

Outcome = Literal["agrees", "differs", "incomplete", "not installed"]


@dataclass(frozen=True)
class StepError:
    """The largest error of one kind of output at one step, over all requests."""

    step: str  # vision_encoder, mask_decoder, prefill, step.0, ...
    output: str  # image_features, masks, logits, or cache: the keys and values of all layers
    relative: float  # largest absolute error divided by the largest absolute value; inf: NaN or another shape


@dataclass(frozen=True)
class GraphResult:
    """A graph in one runtime."""

    graph: str
    problem: str | None  # the runtime's message if it does not open or run the graph
    missing_operators: tuple[str, ...]  # operators of the graph that the message names
    open_s: float | None  # seconds to open the graph
    run_s: float | None  # median seconds of a run
    errors: tuple[StepError, ...]

    @property
    def worst(self) -> float:
        """The largest error; 0 if nothing was compared."""
        return max((error.relative for error in self.errors), default=0.0)


@dataclass(frozen=True)
class RuntimeResult:
    """All graphs in one runtime."""

    name: str
    version: str | None  # None: not installed
    install: str  # command that installs the runtime
    missing: str | None  # what is not installed
    problem: str | None  # why the runtime does not start
    graphs: tuple[GraphResult, ...]
    ids: tuple[tuple[int, ...], ...] | None  # greedy ids of each request; None: not every graph runs


@dataclass(frozen=True)
class Conformance:
    """The graphs of a bundle or of a layout in several runtimes."""

    bundle_id: str  # or the id of the layout
    layout: str  # bundle, transformers.js or genai
    precision: str  # or the number format of the layout
    reference: str  # name and version
    system: str  # system and processor
    requests: tuple[str, ...]  # image and prompt of each request
    tokens: int
    limit: float
    ids: tuple[tuple[int, ...], ...]  # greedy ids of each request, up to the first stop token
    runtimes: tuple[RuntimeResult, ...]

    def outcome(self, runtime: RuntimeResult) -> Outcome:
        """Return whether a runtime runs every graph within the limit, in float32 with equal ids.

        With rounded weights a small difference may change an id, so their ids are reported and not judged.
        """
        if runtime.missing is not None:
            return "not installed"
        if any(graph.worst > self.limit for graph in runtime.graphs):
            return "differs"
        if runtime.ids is None:
            return "incomplete"
        if self.limit == FLOAT32_LIMIT and runtime.ids != self.ids:
            return "differs"
        return "agrees"

    def equal_ids(self, runtime: RuntimeResult) -> int:
        """Return the number of requests whose ids are equal to the reference's."""
        return sum(mine == theirs for mine, theirs in zip(self.ids, runtime.ids or (), strict=False))


def facts(conformance: Conformance) -> dict[str, object]:
    """Return the results as an object for JSON. JSON has no infinity: such an error is null."""
    runtimes = [
        {
            "name": runtime.name,
            "version": runtime.version,
            "outcome": conformance.outcome(runtime),
            "install": runtime.install,
            "missing": runtime.missing,
            "problem": runtime.problem,
            "equal_ids": conformance.equal_ids(runtime),
            "ids": runtime.ids,
            "graphs": [
                {
                    "graph": graph.graph,
                    "problem": graph.problem,
                    "missing_operators": graph.missing_operators,
                    "open_s": graph.open_s,
                    "run_s": graph.run_s,
                    "errors": [
                        {"step": e.step, "output": e.output, "relative": _finite(e.relative)}
                        for e in graph.errors
                    ],
                }
                for graph in runtime.graphs
            ],
        }
        for runtime in conformance.runtimes
    ]
    return {**vars(conformance), "runtimes": runtimes}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def table(conformance: Conformance) -> str:
    """Return the results as lines of text."""
    return "\n".join(_lines(conformance))


def _lines(conformance: Conformance) -> Iterator[str]:
    graphs = tuple(dict.fromkeys(graph.graph for each in conformance.runtimes for graph in each.graphs))
    requests = len(conformance.requests)
    yield (
        f"{conformance.layout} {conformance.bundle_id}: {conformance.precision}, {requests} requests of "
        f"{conformance.tokens} tokens, reference {conformance.reference}, limit {conformance.limit:g}"
    )
    rows = [("runtime", "version", *graphs, "ids", "seconds", "result")]
    for runtime in conformance.runtimes:
        ids = f"{conformance.equal_ids(runtime)}/{requests}" if runtime.ids else "-"
        seconds = sum((graph.open_s or 0) + (graph.run_s or 0) for graph in runtime.graphs)
        shown = f"{seconds:.2f}" if runtime.graphs else "-"
        errors = (_cell(runtime.graphs, name) for name in graphs)
        outcome = conformance.outcome(runtime)
        rows.append((runtime.name, runtime.version or "-", *errors, ids, shown, outcome))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
    for runtime in conformance.runtimes:
        if runtime.missing is not None:
            yield f"{runtime.name}: {runtime.missing} is not installed; install it with `{runtime.install}`"
        if runtime.problem is not None:
            yield f"{runtime.name}: does not start: {runtime.problem}"
        for graph in runtime.graphs:
            if graph.missing_operators:
                yield f"{runtime.name}: {graph.graph} fails at {', '.join(graph.missing_operators)}"
            if graph.problem:
                yield f"{runtime.name}: {graph.graph}: {graph.problem}"


def _cell(graphs: Sequence[GraphResult], name: str) -> str:
    graph = next((graph for graph in graphs if graph.graph == name), None)
    if graph is None:
        return "-"
    return "no" if graph.problem else f"{graph.worst:.1e}"
