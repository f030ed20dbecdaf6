"""Measure the best rates of the hardware: memory bandwidth, and matrix products of a prefill's size."""

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

from .metrics import Metrics

# Size of the measured product: PaliGemma 1's gate projection for a 224-pixel image and a prompt of 8 tokens.
# The numbers are positions, inputs and outputs.
ROWS, INNER, OUTER = 264, 2048, 16_384
OPERATIONS = 2 * ROWS * INNER * OUTER  # multiplications and additions of that product
REPEATS = 5  # timed runs, of which the fastest counts
# Runs between two readings of the clock on a GPU, so that launching and waiting hardly affect the time.
RUNS_PER_CLOCK = 4
MAX_MEMORY_SHARE = 0.4  # limit of each of the two buffers of a copy, as a share of a GPU's free memory


class HardwareLimits:
    """Measurements of the hardware, with the methods of a measured system; each round repeats them."""

    def __init__(self, threads: int, buffer: int, device: str = "cpu") -> None:
        """Prepare the measurements.

        Args:
            threads: number of CPU threads.
            buffer: number of bytes to read; more than the processor's caches hold.
            device: torch's name of the device.
        """
        torch.set_num_threads(threads)
        self._threads, self._device = threads, torch.device(device)
        if self._device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self._device)
            buffer = min(buffer, int(free * MAX_MEMORY_SHARE))
        self._buffer = buffer

    def warm_up(self, batches: list[int]) -> None:
        """Do nothing, because `fastest` runs each measurement once before it is timed."""

    def round(self, batches: list[int], pasts: list[int]) -> Metrics:
        """Return bytes read per second and operations per second; the arguments have no effect."""
        del batches, pasts
        rates = {"read_bytes_per_s": self._read(), "bf16_operations_per_s": self._bf16()}
        return rates if self._device.type == "cuda" else rates | {"int8_operations_per_s": self._int8()}

    def _read(self) -> float:
        """Return the memory bandwidth in bytes per second.

        On a CPU this is the rate of a sum. On a GPU it is the faster of a sum and a copy, where a copy counts
        the bytes read and the bytes written.
        """
        values = torch.ones(self._buffer // 4, device=self._device)
        if self._device.type == "cpu":
            return values.nbytes / fastest(values.sum)
        sink = torch.empty_like(values)
        summed = values.nbytes / self._fastest_on_gpu(values.sum)
        return max(summed, 2 * values.nbytes / self._fastest_on_gpu(lambda: sink.copy_(values)))

    def _bf16(self) -> float:
        rows = torch.randn(ROWS, INNER, device=self._device).bfloat16()
        weights = torch.randn(OUTER, INNER, device=self._device).bfloat16()
        run = fastest if self._device.type == "cpu" else self._fastest_on_gpu
        return OPERATIONS / run(lambda: torch.nn.functional.linear(rows, weights))

    def _int8(self) -> float:
        session = int8_session(INNER, OUTER, self._threads)
        rows = np.random.default_rng(0).standard_normal((ROWS, INNER), dtype=np.float32)
        return OPERATIONS / fastest(lambda: session.run(None, {"x": rows}))

    def _fastest_on_gpu(self, work: Callable[[], object]) -> float:
        def runs() -> None:
            for _ in range(RUNS_PER_CLOCK):
                work()
            torch.cuda.synchronize(self._device)

        return fastest(runs) / RUNS_PER_CLOCK


def fastest(work: Callable[[], object]) -> float:
    """Return the seconds of the fastest of `REPEATS` runs; one more run before them is not timed."""
    work()
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def int8_session(inner: int, outer: int, threads: int) -> onnxruntime.InferenceSession:
    """Return an onnxruntime session of `int8_product` with the options that the runtime uses for bundles."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    configure_int8(options, onnxruntime)
    product = int8_product(inner, outer).SerializeToString()
    return onnxruntime.InferenceSession(product, options, providers=["CPUExecutionProvider"])


def int8_product(inner: int, outer: int) -> onnx.ModelProto:
    """Return a graph of one `DynamicQuantizeMatMul`: float32[rows, inner] -> float32[rows, outer].

    Its weights are random and signed.
    """
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
