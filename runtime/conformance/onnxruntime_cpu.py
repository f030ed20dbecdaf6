"""onnxruntime on the CPU, the reference of the comparison."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ..bundle.schema import GraphSpec
from ..engine.devices import choose_placement
from ..engine.ort import import_onnxruntime
from ..engine.session import SessionFacts, open_session
from .interface import Arrays, Engine, Graph, by_output_name


@contextmanager
def start_reference(facts: SessionFacts) -> Iterator[Engine]:
    """Yield onnxruntime with the CPU provider, and the session options that the runtime uses.

    Raises:
        ProviderError: onnxruntime is not installed.
    """
    placement = choose_placement("cpu", None)

    def open_graph(path: Path, spec: GraphSpec) -> Graph:
        session = open_session(path.parent, replace(spec, file=path.name), facts, placement)

        def run(inputs: Arrays) -> Arrays:
            return by_output_name(spec, session.run(None, inputs))

        return run

    yield Engine(import_onnxruntime().__version__, open_graph)
