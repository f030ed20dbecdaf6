"""Look up rows of an embedding of 4-bit or 8-bit codes with operators of the ONNX standard.

The operator GatherBlockQuantized would do the same, but the builds of onnxruntime for browsers with WebGPU
have no kernel of it for the CPU, and most other runtimes lack it.

Shapes: docs/notation.md. E is the block size; the D values of a row are D / E blocks.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..graphs.constants import add_constant

ZERO_8BIT = np.array(128, np.float32)  # the 8-bit code of zero
# The two values of each byte: float32[256, 2]. The low bits hold the first code, and code 8 is zero.
PAIRS = np.stack([np.arange(256) % 16 - 8, np.arange(256) // 16 - 8], axis=1).astype(np.float32)


def lookup_nodes(
    graph: ir.Graph,
    codes: ir.Value,
    scales: ir.Value,
    ids: ir.Value | None,
    bits: int,
) -> list[ir.Node]:
    """Return nodes that look up rows and dequantise them: int64[B, T] -> float32[B, T, D].

    Args:
        graph: the graph that gets the constants of the nodes.
        codes: uint8[V, D / E, E / 2] of 4 bits, two codes per byte; or uint8[V, D / E, E] of 8 bits.
        scales: float32[V, D / E].
        ids: int64[B, T].
        bits: 4 or 8, bits per code.
    """
    packed = ir.node("Gather", [codes, ids])  # [B, T, D / E, bytes of a block]
    unpacked = _unpack_4bit(graph, codes, packed) if bits == 4 else _unpack_8bit(graph, packed)
    row_scales = ir.node("Gather", [scales, ids])  # [B, T, D / E]
    last = add_constant(graph, "embedding.last", np.array([-1]))
    column = ir.node("Unsqueeze", [row_scales.outputs[0], last])
    scaled = ir.node("Mul", [unpacked[-1].outputs[0], column.outputs[0]])
    shape = add_constant(graph, "embedding.rows", np.array([0, 0, -1]))
    rows = ir.node("Reshape", [scaled.outputs[0], shape])
    return [packed, *unpacked, row_scales, column, scaled, rows]


def _unpack_4bit(graph: ir.Graph, codes: ir.Value, packed: ir.Node) -> list[ir.Node]:
    """Return nodes that unpack codes: uint8[B, T, D / E, E / 2] -> float32[B, T, D / E, E]."""
    _, blocks, block_bytes = codes.shape.numpy() if codes.shape is not None else (0, 0, 0)
    blocks_shape = np.array([0, 0, blocks, 2 * block_bytes])  # 0: the size of the same axis of the input
    indices = ir.node("Cast", [packed.outputs[0]], {"to": ir.DataType.INT32})
    table = add_constant(graph, "embedding.pairs", PAIRS)
    pairs = ir.node("Gather", [table, indices.outputs[0]])  # [B, T, D / E, E / 2, 2]
    values = ir.node("Reshape", [pairs.outputs[0], add_constant(graph, "embedding.blocks", blocks_shape)])
    return [indices, pairs, values]


def _unpack_8bit(graph: ir.Graph, packed: ir.Node) -> list[ir.Node]:
    """Return nodes that subtract the code of zero: uint8[B, T, D / E, E] -> float32 of the same shape."""
    unsigned = ir.node("Cast", [packed.outputs[0]], {"to": ir.DataType.FLOAT})
    return [unsigned, ir.node("Sub", [unsigned.outputs[0], add_constant(graph, "embedding.zero", ZERO_8BIT)])]
