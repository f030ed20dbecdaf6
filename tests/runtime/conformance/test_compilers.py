"""The adapters of tract and IREE with fake libraries, because the tests do not install the real ones."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from paligemma_onnx.runtime.bundle.schema import GraphSpec, TensorSpec
from paligemma_onnx.runtime.conformance import iree_cpu, tract_cpu
from paligemma_onnx.runtime.conformance.interface import GraphError, NotInstalledError

SPEC = GraphSpec(
    "prefill.onnx",
    (TensorSpec("input_ids", "int64", ("batch", "tokens")), TensorSpec("features", "float32", ("batch", 3))),
    (TensorSpec("logits", "float32", ("batch", 2)),),
)


class FakeTractError(Exception):
    """Raised by the fake library."""


def fake_tract(compiled: list[tuple[str, ...]], *, symbolic: bool) -> ModuleType:
    """Return a module that records the input facts of each compiled graph, and returns the sum of the ids."""

    class Model:
        def __init__(self) -> None:
            self.facts: dict[int, str] = {}

        def set_input_fact(self, index: int, fact: str) -> None:
            self.facts[index] = fact

        def into_model(self) -> Model:
            if not symbolic and not self.facts:
                raise FakeTractError("Undetermined symbol in expression: tokens\n\nStack backtrace:\n 0: x")
            compiled.append(tuple(self.facts.values()))
            return self

        def into_runnable(self) -> Model:
            return self

        def run(self, inputs: list[np.ndarray]) -> list[Any]:
            if inputs[0].sum() < 0:
                raise FakeTractError("negative id\n\nStack backtrace:\n 0: x")
            return [SimpleNamespace(to_numpy=lambda: inputs[0].sum(axis=1))]

    module = ModuleType("tract")
    module.onnx = lambda: SimpleNamespace(load=lambda _path: Model())  # type: ignore[attr-defined]
    module.TractError = FakeTractError  # type: ignore[attr-defined]
    module.version = lambda: "9.9"  # type: ignore[attr-defined]
    return module


@pytest.mark.parametrize("symbolic", [True, False])
def test_tract_compiles_for_shapes_only_if_it_must(monkeypatch: pytest.MonkeyPatch, symbolic: bool) -> None:
    compiled = list[tuple[str, ...]]()
    monkeypatch.setitem(sys.modules, "tract", fake_tract(compiled, symbolic=symbolic))
    with tract_cpu.start(Path()) as engine:
        assert engine.version == "9.9"
        graph = engine.open_graph(Path("prefill.onnx"), SPEC)
        for tokens in (2, 5, 2):
            inputs = {"features": np.ones((1, 3), np.float32), "input_ids": np.ones((1, tokens), np.int64)}
            np.testing.assert_array_equal(graph(inputs)["logits"], [tokens])
        with pytest.raises(GraphError) as caught:
            graph(inputs | {"input_ids": -np.ones((1, 2), np.int64)})
    assert str(caught.value).strip() == "negative id"
    assert compiled == ([()] if symbolic else [("1,2,i64", "1,3,f32"), ("1,5,i64", "1,3,f32")])


@pytest.mark.parametrize("module", ["tract", "iree"])
def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    start = tract_cpu.start if module == "tract" else iree_cpu.start
    with pytest.raises(NotInstalledError, match=f"the Python package {module}"), start(Path()):
        pass


# Lines as iree-import-onnx 3.13 writes them: `DynamicQuantizeMatMul` is not known, so its output has no type.
IMPORTED = """
    %345 = torch.operator "onnx.DynamicQuantizeMatMul"(%9) : (!torch.vtensor) -> !torch.none
    %346 = torch.operator "onnx.Add"(%345, %11) : (!torch.none, !torch.vtensor<[192],f32>) -> !torch.none
"""
MESSAGE = "Error invoking IREE compiler\nx/vision.mlir:118:12: error: failed to legalize 'onnx.Add'\n<graph>"


def test_iree_names_the_operator_that_the_importer_does_not_know(tmp_path: Path) -> None:
    imported = tmp_path / "vision.mlir"
    imported.write_text(IMPORTED)
    assert iree_cpu.explain(MESSAGE, imported) == (
        "the importer does not know the operator DynamicQuantizeMatMul"
    )
    imported.write_text("")
    assert iree_cpu.explain(MESSAGE, imported) == (
        "x/vision.mlir:118:12: error: failed to legalize 'onnx.Add'"
    )
