"""The reference evaluator of the package onnx, which implements the standard in NumPy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..bundle.schema import GraphSpec
from .interface import Arrays, Engine, Graph, NotInstalledError, by_output_name


@contextmanager
def start(_packages: Path) -> Iterator[Engine]:
    """Yield the reference evaluator."""
    try:
        import onnx  # noqa: PLC0415  not a dependency of the runtime
        from onnx.reference import ReferenceEvaluator  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise NotInstalledError(f"the Python package {error.name}") from error

    def open_graph(path: Path, spec: GraphSpec) -> Graph:
        evaluator = ReferenceEvaluator(str(path))

        def run(inputs: Arrays) -> Arrays:
            return by_output_name(spec, [np.asarray(each) for each in evaluator.run(None, dict(inputs))])

        return run

    yield Engine(onnx.__version__, open_graph)
