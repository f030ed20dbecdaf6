"""Detection of processors whose 8-bit products overflow, and the session option that avoids it."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from paligemma_onnx.runtime.engine.int8_overflow import (
    PROBE,
    U8S8_PRECISION,
    WEIGHT,
    WIDTH,
    configure_int8,
    int8_matmul_overflows,
)

EXACT = np.full((8, WIDTH), WIDTH * WEIGHT, np.float32)
SATURATED = EXACT * (2**15 - 1) / (2 * 255 * 127)  # sums of two products that saturate at 32,767


class FakeOnnxruntime(SimpleNamespace):
    """Stands for onnxruntime on a processor with given products; hashable, since results are cached."""

    def __hash__(self) -> int:
        return id(self)


def fake_onnxruntime(products: NDArray[np.float32]) -> Any:
    session = SimpleNamespace(run=lambda _, feeds: [products[: len(feeds["x"])]])
    return FakeOnnxruntime(SessionOptions=SimpleNamespace, InferenceSession=lambda *_, **__: session)


@pytest.fixture(autouse=True)
def clear_cache() -> Iterator[None]:
    int8_matmul_overflows.cache_clear()
    yield
    int8_matmul_overflows.cache_clear()


def test_the_probe_is_what_it_is_said_to_be() -> None:
    model = onnx.load_from_string((files("paligemma_onnx.runtime.engine") / PROBE).read_bytes())
    (node,) = model.graph.node
    assert (node.op_type, list(node.input)) == ("DynamicQuantizeMatMul", ["x", "weights", "scales"])
    weights, scales = map(numpy_helper.to_array, model.graph.initializer)
    assert (weights.dtype, weights.shape, set(weights.ravel())) == (np.int8, (WIDTH, WIDTH), {WEIGHT})
    assert set(scales) == {1}


@pytest.mark.parametrize(("products", "expected"), [(EXACT, False), (SATURATED, True)], ids=["exact", "off"])
def test_session_options(products: NDArray[np.float32], expected: bool) -> None:
    entries = dict[str, str]()
    options: Any = SimpleNamespace(add_session_config_entry=lambda key, value: entries.update({key: value}))
    configure_int8(options, fake_onnxruntime(products))
    assert entries == (dict([U8S8_PRECISION]) if expected else {})


def test_only_many_rows_overflow() -> None:
    products = EXACT.copy()
    products[1:] = SATURATED[1:]
    assert int8_matmul_overflows(fake_onnxruntime(products))


def test_here_products_are_right_when_guarded() -> None:
    """Random signs of the largest weights, on the processor of this machine."""
    rng = np.random.default_rng(0)
    model = onnx.load_from_string((files("paligemma_onnx.runtime.engine") / PROBE).read_bytes())
    weights = rng.choice(np.array([-127, 127], np.int8), (WIDTH, WIDTH))
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "weights"))
    options = onnxruntime.SessionOptions()
    configure_int8(options, onnxruntime)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    x = rng.choice(np.array([0, 1], np.float32), (16, WIDTH))
    assert np.allclose(session.run(None, {"x": x})[0], x @ weights, atol=1e-2)
