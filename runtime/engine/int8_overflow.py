"""Find out whether this processor's products of 8-bit integers overflow.

x86 processors without VNNI multiply 8-bit activations with 8-bit weights, and add pairs of products in 16
bits. The largest sum, 255 * 127 + 255 * 127, does not fit into 16 bits, and results would be wrong by tenths.
An option makes onnxruntime use unsigned weights, which avoids the overflow. But onnxruntime then uses
unsigned weights on every processor, and processors that do not need the option run at less than half their
speed. So this module runs a graph with the largest possible numbers, and sets the option only if the result
is wrong.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import numpy as np

from .ort import Onnxruntime, SessionOptions

PROBE = "overflow.onnx"  # one DynamicQuantizeMatMul with 64 x 64 weights of 127 and scales of 1
WIDTH, WEIGHT = 64, 127
ROWS = (1, 8)  # onnxruntime has a kernel for a single row and another kernel for several rows
U8S8_PRECISION = ("session.x64quantprecision", "1")  # onnxruntime's option for unsigned weights


def configure_int8(options: SessionOptions, ort: Onnxruntime) -> None:
    """Make a CPU session use unsigned weights if products of signed 8-bit weights overflow here."""
    if int8_matmul_overflows(ort):
        options.add_session_config_entry(*U8S8_PRECISION)


@cache
def int8_matmul_overflows(ort: Onnxruntime) -> bool:
    """Return whether products with signed weights overflow; takes a few milliseconds per process."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    graph = (files(__package__) / PROBE).read_bytes()
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    products = (session.run(None, {"x": np.ones((rows, WIDTH), np.float32)})[0] for rows in ROWS)
    return not all(np.allclose(product, WIDTH * WEIGHT, rtol=1e-3) for product in products)
