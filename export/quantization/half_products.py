"""Multiply by matrices in half precision and look up their rows, with operators of the ONNX standard.

The graphs are for runtimes other than CUDA. Only the matrices and the products with them are in half
precision; norms, softmax, soft caps and sums stay float32, because squares and exponentials exceed the range
of float16, and small differences vanish. Inputs and outputs of the graph stay float32, too.

Shapes: docs/notation.md.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..graphs.constants import add_constant
from ..graphs.cuda_graphs import RESCORED_TOKENS


def half_product(graph: ir.Graph, node: ir.Node, matrix: ir.Value) -> list[ir.Node]:
    """Return nodes that replace a float32 product: the input is rounded, and the result is float32.

    Args:
        graph: the graph of the node.
        node: MatMul or Gemm.
        matrix: the matrix in half precision.
    """
    product = ir.node(node.op_type, [_round(graph, node.inputs[0], matrix), matrix], node.attributes)
    return [product, ir.node("Cast", [product.outputs[0]], {"to": ir.DataType.FLOAT})]


def half_lookup(ids: ir.Value | None, matrix: ir.Value) -> list[ir.Node]:
    """Return nodes that look up rows of a matrix in half precision: int64[...] -> float32[..., D]."""
    rows = ir.node("Gather", [matrix, ids])
    return [rows, ir.node("Cast", [rows.outputs[0]], {"to": ir.DataType.FLOAT})]


def half_logits(graph: ir.Graph, node: ir.Node, head: ir.Value) -> list[ir.Node]:
    """Return nodes that score every token: the product of float32[B, D] and half[V, D] -> float32[B, V].

    Half precision rounds a logit of 20 to a multiple of 1/64, and different tokens may differ by less. The
    most likely tokens are therefore scored again in float32, as graphs/cuda_graphs.py does.

    Args:
        graph: the graph of the node.
        node: Gemm.
        head: the output head in half precision.
    """
    x, tokens = node.inputs[0], head.shape.numpy()[0] if head.shape is not None else 0
    count = add_constant(graph, "head.rescored", np.array([min(RESCORED_TOKENS, tokens)]))
    last = add_constant(graph, "head.last", np.array([-1]))
    product, logits = half_product(graph, node, head)
    likely = ir.node("TopK", [logits.outputs[0], count], num_outputs=2)  # [B, 32]
    rows = half_lookup(likely.outputs[1], head)  # [B, 32, D]
    column = ir.node("Unsqueeze", [x, last])  # [B, D, 1]
    scores = ir.node("MatMul", [rows[-1].outputs[0], column.outputs[0]])
    rescored = ir.node("Squeeze", [scores.outputs[0], last])
    values = [logits.outputs[0], likely.outputs[1], rescored.outputs[0]]
    return [
        product,
        logits,
        likely,
        *rows,
        column,
        scores,
        rescored,
        ir.node("ScatterElements", values, {"axis": 1}),
    ]


def _round(graph: ir.Graph, x: ir.Value | None, matrix: ir.Value) -> ir.Value:
    """Return x in the dtype of the matrix; products with the same input share one Cast."""
    producer = None if x is None else x.producer()
    if x is None or producer is None or matrix.dtype is None:
        raise RuntimeError(f"{matrix.name}: the input of its product is not computed by a node")
    for use in x.uses():
        if use.node.op_type == "Cast" and use.node.attributes["to"].as_int() == matrix.dtype:
            return use.node.outputs[0]
    cast = ir.node("Cast", [x], {"to": matrix.dtype})
    graph.insert_after(producer, cast)
    return cast.outputs[0]
