"""What the machine does at best: read memory, and multiply matrices of the size that prefill multiplies."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from paligemma_onnx.export.quantization.quantize_graph import ORT_DOMAIN, ORT_VERSION
from paligemma_onnx.runtime.engine.int8_overflow import configure_int8

from .metrics import Figures

ROWS, INNER, OUTER = 264, 2048, 16_384  # PaliGemma 1's gate projection behind a picture of 224 pixels
REPEATS = 5  # the fastest counts
OPERATIONS = 2 * ROWS * INNER * OUTER  # a product is a multiplication and an addition


class Limits:
    """Measures as the contenders are measured: in a process of its own, once a round."""

    def __init__(self, threads: int, buffer: int) -> None:
        """Take so many threads, and so many bytes to read."""
        self._buffer = buffer
        torch.set_num_threads(threads)
        self._session = int8_session(INNER, OUTER, threads)
        self._rows = np.random.default_rng(0).standard_normal((ROWS, INNER), dtype=np.float32)

    def once(self) -> None:
        """Nothing is loaded that would be answered with."""

    def round(self, batches: list[int], pasts: list[int]) -> Figures:
        """Bytes read a second, operations a second; the contenders' arguments mean nothing here."""
        del batches, pasts
        return {
            "read_bytes_per_s": self._read(),
            "bf16_operations_per_s": self._bf16(),
            "int8_operations_per_s": OPERATIONS / fastest(lambda: self._session.run(None, {"x": self._rows})),
        }

    def _read(self) -> float:
        """A sum over a buffer."""
        values = torch.ones(self._buffer // 4)
        return values.nbytes / fastest(values.sum)

    def _bf16(self) -> float:
        rows = torch.from_numpy(self._rows).bfloat16()
        weights = torch.randn(OUTER, INNER).bfloat16()
        return OPERATIONS / fastest(lambda: torch.nn.functional.linear(rows, weights))


def fastest(work: Callable[[], object]) -> float:
    """Seconds of the fastest of a few runs, one before them not counted."""
    work()
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def int8_session(inner: int, outer: int, threads: int) -> onnxruntime.InferenceSession:
    """A session of `int8_product`, with the options of a bundle's (runtime/engine/session.py)."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    configure_int8(options, onnxruntime)
    product = int8_product(inner, outer).SerializeToString()
    return onnxruntime.InferenceSession(product, options, providers=["CPUExecutionProvider"])


def int8_product(inner: int, outer: int) -> onnx.ModelProto:
    """One `DynamicQuantizeMatMul` float32[R, I] -> float32[R, O] with random signed weights."""
    rng = np.random.default_rng(0)
    weights = rng.integers(-127, 128, (inner, outer), dtype=np.int8)
    arrays: dict[str, NDArray[np.generic]] = {
        "weight": weights,
        "scale": np.full(outer, 1 / 127, np.float32),
        "zero_point": np.zeros(outer, np.int8),
    }
    node = helper.make_node("DynamicQuantizeMatMul", ["x", *arrays], ["y"], domain=ORT_DOMAIN)
    graph = helper.make_graph(
        [node],
        "int8_product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["R", inner])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["R", outer])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(ORT_DOMAIN, ORT_VERSION)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)
