"""OpenVINO on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..bundle.schema import GraphSpec
from .interface import Arrays, Engine, Graph, NotInstalledError, by_output_name

# Without this option OpenVINO computes in bfloat16 on processors that support it.
FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32"}


@contextmanager
def start(_packages: Path) -> Iterator[Engine]:
    """Yield OpenVINO with its CPU plug-in."""
    try:
        import openvino  # noqa: PLC0415  not a dependency of the runtime
    except ModuleNotFoundError as error:
        raise NotInstalledError(f"the Python package {error.name}") from error
    core = openvino.Core()

    def open_graph(path: Path, spec: GraphSpec) -> Graph:
        compiled = core.compile_model(path, "CPU", FLOAT32)

        def run(inputs: Arrays) -> Arrays:
            return by_output_name(spec, list(compiled(dict(inputs)).to_tuple()))

        return run

    yield Engine(openvino.__version__.partition("-")[0], open_graph)
