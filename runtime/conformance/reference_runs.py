"""Runs of the reference: every call of a graph with its inputs and outputs, stored on disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .calls import Call, greedy_id, mask_codes, run_request
from .graph_set import GraphSet
from .interface import Arrays, Graph
from .requests import Request


@dataclass(frozen=True)
class StoredCall:
    """A call of a graph whose arrays are in two files."""

    graph: str
    step: str
    inputs: Path
    outputs: Path

    def load(self) -> Call:
        """Return the call with its arrays."""
        return Call(self.graph, self.step, _read(self.inputs), _read(self.outputs))


@dataclass(frozen=True)
class ReferenceRuns:
    """Calls and answers of the reference.

    Attributes:
        calls: every call, in the order in which the graphs ran.
        ids: the tokens of each request's greedy answer, up to its first stop token.
    """

    calls: tuple[StoredCall, ...]
    ids: tuple[tuple[int, ...], ...]

    def of_graph(self, graph: str) -> Iterator[Call]:
        """Yield the calls of a graph, loaded one at a time."""
        return (call.load() for call in self.calls if call.graph == graph)


def run_reference(
    graphs: Mapping[str, Graph],
    graph_set: GraphSet,
    requests: Sequence[Request],
    tokens: int,
    folder: Path,
) -> ReferenceRuns:
    """Run every request with the reference's graphs and store the calls in `folder`.

    Args:
        graphs: the reference's open graphs by name.
        graph_set: description of the graphs.
        requests: images and prompts.
        tokens: number of decode steps of each request.
        folder: an empty folder.

    Raises:
        OSError: the arrays cannot be written.
    """
    stored, ids = list[StoredCall](), list[tuple[int, ...]]()

    def store(call: Call) -> None:
        name = folder / f"{len(stored)}"
        files = name.with_suffix(".inputs.npz"), name.with_suffix(".outputs.npz")
        for file, arrays in zip(files, (call.inputs, call.outputs), strict=True):
            np.savez(file, **arrays)  # type: ignore[arg-type]  # NumPy expects no other keyword arguments than its options
        stored.append(StoredCall(call.graph, call.step, *files))

    if "mask_decoder" in graphs:
        codes = mask_codes()
        store(Call("mask_decoder", "mask_decoder", codes, graphs["mask_decoder"](codes)))
    for request in requests:
        chosen = list[int]()
        for call in run_request(graphs, graph_set, request, tokens):
            store(call)
            chosen += answer_ids(graph_set, call)
        ids.append(until_stop(chosen, graph_set))
    return ReferenceRuns(tuple(stored), tuple(ids))


def answer_ids(graph_set: GraphSet, call: Call) -> list[int]:
    """Return the token that a run chooses; nothing for graphs that compute no logits."""
    return [greedy_id(graph_set, call)] if "logits" in call.outputs else []


def until_stop(ids: Sequence[int], graph_set: GraphSet) -> tuple[int, ...]:
    """Return the ids up to the first stop token, which is included."""
    end = next((index for index, each in enumerate(ids) if each in graph_set.tokens.stop), len(ids))
    return tuple(ids[: end + 1])


def _read(file: Path) -> Arrays:
    with np.load(file) as arrays:
        return dict(arrays)
