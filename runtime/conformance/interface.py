"""Interface of a runtime of the `conformance` command: a version, and a function that opens a graph.

A new runtime is one module with a `start` function and one entry in adapters.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from numpy.typing import NDArray

from ..bundle.schema import GraphSpec

Arrays: TypeAlias = Mapping[str, NDArray[Any]]
# Runs a graph: inputs by name -> outputs by name, as the manifest declares both.
Graph: TypeAlias = Callable[[Arrays], Arrays]


class NotInstalledError(Exception):
    """A package or program that the runtime needs is missing. The message names it."""


class GraphError(Exception):
    """The runtime does not open or run a graph. The message is the runtime's own, shortened."""


@dataclass(frozen=True)
class Engine:
    """A started runtime.

    Attributes:
        version: the version that the runtime reports, with the versions that affect results.
        open_graph: opens a graph with its external data from the path of its file. The graph's description
            gives the names, dtypes and shapes of inputs and outputs. Opening or running a graph raises
            GraphError, or any exception of the runtime itself.
    """

    version: str
    open_graph: Callable[[Path, GraphSpec], Graph]


@dataclass(frozen=True)
class Adapter:
    """A runtime that graphs may run in.

    Attributes:
        name: value of `--runtime`.
        install: the command that installs the runtime.
        start: starts the runtime; the argument is the folder whose `node_modules` holds npm packages. Leaving
            the context ends the runtime. Entering it raises NotInstalledError if something is missing.
    """

    name: str
    install: str
    start: Callable[[Path], AbstractContextManager[Engine]]


def by_output_name(spec: GraphSpec, outputs: list[NDArray[Any]]) -> Arrays:
    """Return outputs by their names, from a list in the order in which the graph declares them."""
    return dict(zip((output.name for output in spec.outputs), outputs, strict=True))
