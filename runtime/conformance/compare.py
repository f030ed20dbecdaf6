"""Run the graphs of a bundle or of a layout in a runtime and compare every output with the reference.

Each graph gets the reference's inputs, so that an error shows up in the graph that causes it. Then the
runtime answers every request with its own outputs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from re import search
from statistics import median

import numpy as np

from ..atomic_file import temporary_folder
from ..bundle.schema import GraphSpec
from ..console import printable
from .calls import run_request
from .graph_set import GraphSet
from .interface import Adapter, Arrays, Engine, Graph, NotInstalledError
from .onnxruntime_cpu import start_reference
from .reference_runs import ReferenceRuns, answer_ids, run_reference, until_stop
from .requests import PROMPTS, Request, read_requests
from .results import (
    FLOAT32_LIMIT,
    ROUNDED_LIMIT,
    Conformance,
    GraphResult,
    RuntimeResult,
    StepError,
)

MAX_MESSAGE = 400  # characters of a runtime's message
DRAWN = "drawn image"


@dataclass(frozen=True)
class Settings:
    """Inputs of the comparison, and the folder of npm packages."""

    images: tuple[Path, ...]  # empty: a drawn image
    prompts: tuple[str, ...]  # empty: one prompt per kind
    tokens: int  # decode steps of each request
    packages: Path  # folder whose `node_modules` holds npm packages


def compare_runtimes(
    graph_set: GraphSet,
    adapters: Sequence[Adapter],
    settings: Settings,
    system: str,
    progress: Callable[[str], object],
) -> Conformance:
    """Run graphs in every runtime and compare the results with onnxruntime on the CPU.

    Args:
        graph_set: the graphs of a bundle or of a layout.
        adapters: the runtimes.
        settings: images, prompts, number of tokens and the folder of npm packages.
        system: description of the machine for the result.
        progress: called with a line of text before each runtime.

    Raises:
        BundleError: onnxruntime does not load a graph, or the tokenizer is damaged.
        ImageError, PromptError: an image or a prompt cannot be used.
        ProviderError: onnxruntime is not installed.
        ResourceError: out of memory or disk.
    """
    requests = read_requests(graph_set, settings.images, settings.prompts, settings.tokens)
    with temporary_folder() as recorded:
        progress("running onnxruntime, the reference")
        with start_reference(graph_set) as engine:
            version = engine.version
            opened = {
                name: engine.open_graph(graph_set.folder / spec.file, spec)
                for name, spec in graph_set.graphs.items()
            }
            reference = run_reference(opened, graph_set, requests, settings.tokens, recorded)
            del opened
        results = []
        for adapter in adapters:
            progress(f"running {adapter.name}")
            results.append(_run_adapter(adapter, graph_set, settings, requests, reference))
    prompts = settings.prompts or PROMPTS
    names = [path.name for path in settings.images] or [DRAWN]
    return Conformance(
        bundle_id=graph_set.bundle_id,
        layout=graph_set.layout,
        precision=graph_set.precision,
        reference=f"onnxruntime {version}",
        system=system,
        requests=tuple(f"{image}: {prompt}" for image in names for prompt in prompts),
        tokens=settings.tokens,
        limit=FLOAT32_LIMIT if graph_set.is_float32 else ROUNDED_LIMIT,
        ids=reference.ids,
        runtimes=tuple(results),
    )


def _run_adapter(
    adapter: Adapter,
    graph_set: GraphSet,
    settings: Settings,
    requests: Sequence[Request],
    reference: ReferenceRuns,
) -> RuntimeResult:
    version = missing = problem = ids = None
    graphs: tuple[GraphResult, ...] = ()
    try:
        with adapter.start(settings.packages) as engine:
            version, opened, results = engine.version, dict[str, Graph](), list[GraphResult]()
            for name, spec in graph_set.graphs.items():
                results.append(
                    _run_graph(engine, graph_set.folder / spec.file, spec, name, reference, opened)
                )
            graphs = tuple(results)
            if not any(graph.problem for graph in graphs):
                ids = tuple(_answer(opened, graph_set, request, settings.tokens) for request in requests)
                # Ids after the reference's stop token have no meaning.
                ids = tuple(row[: len(expected)] for row, expected in zip(ids, reference.ids, strict=True))
    except NotInstalledError as error:
        missing = str(error)
    except Exception as error:  # each runtime has exceptions of its own
        problem = shorten(error)
    return RuntimeResult(adapter.name, version, adapter.install, missing, problem, graphs, ids)


def _run_graph(
    engine: Engine, path: Path, spec: GraphSpec, name: str, reference: ReferenceRuns, opened: dict[str, Graph]
) -> GraphResult:
    """Run all calls of a graph. If the graph opens, it is added to `opened`."""
    open_s, seconds, worst = None, list[float](), dict[tuple[str, str], float]()
    problem, operators = None, tuple[str, ...]()
    try:
        started = time.perf_counter()
        graph = engine.open_graph(path, spec)
        open_s = time.perf_counter() - started
        for call in reference.of_graph(name):
            started = time.perf_counter()
            outputs = graph(call.inputs)
            seconds.append(time.perf_counter() - started)
            for output, error in output_errors(outputs, call.outputs).items():
                key = call.step, output
                worst[key] = max(worst.get(key, 0.0), error)
        opened[name] = graph
    except Exception as error:  # each runtime has exceptions of its own
        problem, operators = shorten(error), missing_operators(str(error), spec)
    return GraphResult(
        graph=name,
        problem=problem,
        missing_operators=operators,
        open_s=open_s,
        run_s=median(seconds) if seconds else None,
        errors=tuple(StepError(*key, error) for key, error in worst.items()),
    )


def _answer(
    graphs: Mapping[str, Graph], graph_set: GraphSet, request: Request, tokens: int
) -> tuple[int, ...]:
    calls = run_request(graphs, graph_set, request, tokens)
    return until_stop([each for call in calls for each in answer_ids(graph_set, call)], graph_set)


def output_errors(outputs: Arrays, expected: Arrays) -> dict[str, float]:
    """Return the largest relative error by kind of output; keys and values of all layers are one kind.

    An output that is missing, has another shape or contains NaN has the error infinity.
    """
    errors = dict[str, float]()
    for name, reference in expected.items():
        kind = "cache" if name.startswith("present") else name
        errors[kind] = max(errors.get(kind, 0.0), relative_error(outputs.get(name), reference))
    return errors


def relative_error(actual: object, expected: object) -> float:
    """Return the largest absolute error divided by the largest absolute value of `expected`."""
    computed, reference = np.asarray(actual), np.asarray(expected, np.float64)
    if computed.dtype == object or computed.shape != reference.shape:
        return float("inf")
    error = float(np.abs(computed - reference).max(initial=0.0))
    scale = float(np.abs(reference).max(initial=0.0))
    relative = error / scale if scale else (0.0 if error == 0 else float("inf"))
    return relative if np.isfinite(relative) else float("inf")


def missing_operators(message: str, spec: GraphSpec) -> tuple[str, ...]:
    """Return the operators of a graph that a runtime's message names as whole words."""
    names = (operator.rpartition(".")[2] for operator in spec.operators)
    return tuple(name for name in names if search(rf"(?<![\w/]){name}(?![\w/])", message))


def shorten(error: Exception) -> str:
    """Return the message of a runtime as one printable line."""
    text = printable(" ".join(str(error).split())) or type(error).__name__
    return text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]}..."
