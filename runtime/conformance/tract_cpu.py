"""tract, an inference library written in Rust, on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..bundle.schema import GraphSpec
from .interface import Arrays, Engine, Graph, GraphError, NotInstalledError, by_output_name

TYPES = {"float32": "f32", "int64": "i64"}  # names of dtypes in tract


@contextmanager
def start(_packages: Path) -> Iterator[Engine]:
    """Yield tract."""
    try:
        import tract  # noqa: PLC0415  not a dependency of the runtime
    except ModuleNotFoundError as error:
        raise NotInstalledError(f"the Python package {error.name}") from error

    def compile_graph(path: Path, facts: list[str]) -> Any:
        """Compile a graph, for the given shapes of inputs if there are any."""
        try:
            model = tract.onnx().load(path)
            for index, fact in enumerate(facts):
                model.set_input_fact(index, fact)
            return model.into_model().into_runnable()
        except tract.TractError as error:
            raise _without_stack(error) from error

    def open_graph(path: Path, spec: GraphSpec) -> Graph:
        compiled = dict[str, Any]()  # by the shapes of the inputs
        try:
            general = compile_graph(path, [])
        except GraphError as error:
            # tract cannot compile some graphs until every dimension is a number.
            if "Undetermined symbol" not in str(error):
                raise
            general = None

        def run(inputs: Arrays) -> Arrays:
            arrays = [inputs[each.name] for each in spec.inputs]
            runnable = general
            if runnable is None:
                facts = [
                    ",".join([*map(str, array.shape), TYPES[each.dtype]])
                    for each, array in zip(spec.inputs, arrays, strict=True)
                ]
                key = ";".join(facts)
                if key not in compiled:
                    compiled[key] = compile_graph(path, facts)
                runnable = compiled[key]
            try:
                return by_output_name(spec, [output.to_numpy() for output in runnable.run(arrays)])
            except tract.TractError as error:
                raise _without_stack(error) from error

        return run

    yield Engine(tract.version(), open_graph)


def _without_stack(error: Exception) -> GraphError:
    return GraphError(str(error).partition("Stack backtrace:")[0])
