"""Does this processor add products of 8-bit numbers right?

x86 before VNNI multiplies 8-bit activations with 8-bit weights and adds pairs of products in 16 bits, where
255 * 127 + 255 * 127 does not fit: every answer would be off by tenths. Told so, the engine takes unsigned
weights instead, at less than half the speed of processors that do not need it; and it takes them wherever it
is told. So the question is put to the engine itself, with the largest numbers there are.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

PROBE = "overflow.onnx"  # one DynamicQuantizeMatMul: 64 x 64 weights of 127, scales of 1
WIDTH, LARGEST = 64, 127
ROWS = (1, 8)  # kernels for one row and for many are not the same
U8S8_PRECISION = ("session.x64quantprecision", "1")  # onnxruntime's option


def configure_int8(options: Any, ort: Any) -> None:
    """Have a session on the CPU take unsigned weights where signed ones overflow."""
    if int8_matmul_overflows(ort):
        options.add_session_config_entry(*U8S8_PRECISION)


@cache
def int8_matmul_overflows(ort: Any) -> bool:
    """Whether products of signed weights come out wrong, on one engine; takes a few milliseconds, once."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    graph = (files(__package__) / PROBE).read_bytes()
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    answers = (session.run(None, {"x": np.ones((rows, WIDTH), np.float32)})[0] for rows in ROWS)
    return not all(np.allclose(answer, WIDTH * LARGEST, rtol=1e-3) for answer in answers)
