"""The committed graphs of runtime/engine/: made by tests/golden/make_engine_graphs.py, and correct."""

from __future__ import annotations

import sys
from importlib.resources import files

import numpy as np
import onnx
import pytest
from paths import TESTS

from paligemma_onnx.runtime.engine.devices import choose_placement
from paligemma_onnx.runtime.engine.gather_features import GATHER, open_gather
from paligemma_onnx.runtime.engine.int8_overflow import PROBE
from paligemma_onnx.runtime.engine.memory import GRAPH as ZEROS

ENGINE = files("paligemma_onnx.runtime.engine")


@pytest.fixture(scope="module")
def made() -> dict[str, bytes]:
    """The graphs that the script makes, by file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(TESTS / "golden"), *sys.path])
        from make_engine_graphs import GRAPHS

        return {name: make() for name, make in GRAPHS.items()}


def test_committed_files_are_what_the_script_makes(made: dict[str, bytes]) -> None:
    committed = {entry.name for entry in ENGINE.iterdir() if entry.name.endswith(".onnx")}
    assert committed == made.keys() == {GATHER.file, PROBE, ZEROS}
    for name, content in made.items():
        assert (ENGINE / name).read_bytes() == content, f"{name}: run tests/golden/make_engine_graphs.py"


def test_graphs_of_our_own_are_what_they_are_said_to_be(made: dict[str, bytes]) -> None:
    operators = {
        GATHER.file: ["Concat", "Gather", "Reshape", "Shape", "Shape"],
        ZEROS: ["ConstantOfShape"],
    }
    for name, expected in operators.items():
        model = onnx.load_from_string(made[name])
        onnx.checker.check_model(model, full_check=True)
        assert sorted(node.op_type for node in model.graph.node) == expected


def test_gathering_is_numpy() -> None:
    """Rows of several images, in any order and with repetitions."""
    random = np.random.default_rng(0)
    features = random.normal(size=(4, 5, 6)).astype(np.float32)
    images = np.array([[3, 1], [1, 1], [0, 2]])
    session = open_gather(choose_placement("cpu", 1))
    (rows,) = session.run(None, {"features": features, "pictures": images})
    assert np.array_equal(rows, features[images].reshape(3, 10, 6))
