"""Look up rows of an embedding of 4-bit codes with operators of the ONNX standard.

The operator GatherBlockQuantized would do the same, but the builds of onnxruntime for browsers with WebGPU
have no kernel of it for the CPU, and most other runtimes lack it.

Shapes: docs/notation.md. E is the block size; the D values of a row are D / E blocks.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

# The two values of each byte: float32[256, 2]. The low bits hold the first code, and code 8 is zero.
PAIRS = np.stack([np.arange(256) % 16 - 8, np.arange(256) // 16 - 8], axis=1).astype(np.float32)


def lookup_nodes(
    codes: ir.Value,
    scales: ir.Value,
    ids: ir.Value | None,
    constant: Callable[[str, NDArray[np.float32] | NDArray[np.int64]], ir.Value],
) -> list[ir.Node]:
    """Return nodes that look up rows and dequantise them: int64[B, T] -> float32[B, T, D].

    Args:
        codes: uint8[V, D / E, E / 2], two codes per byte.
        scales: float32[V, D / E].
        ids: int64[B, T].
        constant: returns an initializer of the graph with the given name and content.
    """
    _, blocks, block_bytes = codes.shape.numpy() if codes.shape is not None else (0, 0, 0)
    blocks_shape = np.array([0, 0, blocks, 2 * block_bytes])  # 0: the size of the same axis of the input
    packed = ir.node("Gather", [codes, ids])  # [B, T, D / E, E / 2]
    indices = ir.node("Cast", [packed.outputs[0]], {"to": ir.DataType.INT32})
    pairs = ir.node(
        "Gather", [constant("embedding.pairs", PAIRS), indices.outputs[0]]
    )  # [B, T, D / E, E / 2, 2]
    values = ir.node("Reshape", [pairs.outputs[0], constant("embedding.blocks", blocks_shape)])
    row_scales = ir.node("Gather", [scales, ids])  # [B, T, D / E]
    last_axis = ir.node("Unsqueeze", [row_scales.outputs[0], constant("embedding.last", np.array([-1]))])
    scaled = ir.node("Mul", [values.outputs[0], last_axis.outputs[0]])
    rows = ir.node("Reshape", [scaled.outputs[0], constant("embedding.rows", np.array([0, 0, -1]))])
    return [packed, indices, pairs, values, row_scales, last_axis, scaled, rows]
