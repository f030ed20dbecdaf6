"""The names that `paligemma_onnx.runtime` exports, which it imports on first use."""

from __future__ import annotations

import ast

from paths import ROOT

import paligemma_onnx.runtime


def test_each_public_name_can_be_imported() -> None:
    for name in paligemma_onnx.runtime.__all__:
        assert getattr(paligemma_onnx.runtime, name).__name__ == name
        assert name in dir(paligemma_onnx.runtime)
    assert not hasattr(paligemma_onnx.runtime, "absent")


def test_type_checkers_see_the_same_names() -> None:
    stub = ast.parse((ROOT / "runtime" / "__init__.pyi").read_text(encoding="utf-8"))
    imported = {alias.name for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    (listed,) = [ast.literal_eval(node.value) for node in stub.body if isinstance(node, ast.Assign)]
    assert listed == paligemma_onnx.runtime.__all__
    assert imported == set(listed)
