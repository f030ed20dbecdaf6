"""Split the embedding and the output head into pieces of rows, so that each piece fits into one file.

The external data of an initializer cannot be in several files, and browsers hold a file in one buffer of at
most 2 GiB. The float32 embedding of PaliGemma 2 has 2.37 GB.

Shapes: docs/notation.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import onnx_ir as ir

from paligemma_onnx.model.checkpoint.tensor_names import EMBEDDING, LM_HEAD

from ..graphs.constants import add_constant
from ..graphs.trace import TracedGraph
from ..precisions import EmbeddingFormat
from .encodings import array_layouts, piece_name
from .quantize_graph import fit_blocks_to_rows


def split_tables(traced: TracedGraph, embedding: EmbeddingFormat, max_bytes: int) -> TracedGraph:
    """Split the tables of a graph in place where an array would have more than `max_bytes`; return the graph.

    Args:
        traced: graph whose weights are initializers without values.
        embedding: format of the embedding and of the output head.
        max_bytes: size limit of an array.
    """
    graph = traced.model.graph
    for name in (EMBEDDING, LM_HEAD):
        if (table := graph.initializers.get(name)) is None or table.shape is None:
            continue
        rows, width = table.shape.numpy()
        layouts = array_layouts((rows, width), fit_blocks_to_rows(embedding, width), transposed=False)
        pieces = -(-max(layout.length for layout in layouts) // max_bytes)
        if pieces > 1:
            edges = [*range(0, rows, -(-rows // pieces)), rows]
            _split(graph, table, edges, width)
    return traced


def _split(graph: ir.Graph, table: ir.Value, edges: Sequence[int], width: int) -> None:
    """Replace a table [V, D] by pieces; piece i has the rows from `edges[i]` to before `edges[i + 1]`."""
    name = table.name or ""
    graph.initializers.pop(name)
    pieces = []
    for first, end in pairwise(edges):
        piece = ir.val(piece_name(name, first, end), table.dtype, (end - first, width))
        graph.initializers.add(piece)
        pieces.append(piece)
    for use in tuple(table.uses()):
        match use.node.op_type:
            case "Gather":
                new = _gather(graph, use.node, pieces, edges)
            case "Gemm":
                new = _multiply(use.node, pieces)
            case operator:
                raise RuntimeError(f"{name}: {operator} cannot read a split table")
        old, result = use.node.outputs[0], new[-1].outputs[0]
        ir.convenience.replace_nodes_and_values(graph, use.node, [use.node], new, [old], [result])


def _gather(
    graph: ir.Graph, node: ir.Node, pieces: Sequence[ir.Value], edges: Sequence[int]
) -> list[ir.Node]:
    """Return nodes that look up each id in every piece, and choose the row of the piece that has the id.

    The first piece does not limit ids below, and the last piece does not limit them above, so an id outside
    the table is an error as in an undivided table.
    """
    ids, nodes = node.inputs[1], list[ir.Node]()
    axis = add_constant(graph, "rows.axis", np.array([-1]))
    zero = add_constant(graph, "rows.zero", np.array(0))
    chosen: ir.Value | None = None
    for index, piece in enumerate(pieces):
        first, end = edges[index], edges[index + 1]
        local = ids
        if index > 0:
            nodes.append(ir.node("Sub", [ids, add_constant(graph, f"rows.first{index}", np.array(first))]))
            offset = nodes[-1].outputs[0]
            nodes.append(ir.node("Max", [offset, zero]))
            local = nodes[-1].outputs[0]
        if index < len(pieces) - 1:
            last = add_constant(graph, f"rows.last{index}", np.array(end - first - 1))
            nodes.append(ir.node("Min", [local, last]))
            local = nodes[-1].outputs[0]
        rows = ir.node("Gather", [piece, local], {"axis": 0})
        nodes.append(rows)
        if chosen is None:
            chosen = rows.outputs[0]
            continue
        is_here = ir.node("GreaterOrEqual", [offset, zero])
        mask = ir.node("Unsqueeze", [is_here.outputs[0], axis])
        nodes += [is_here, mask, ir.node("Where", [mask.outputs[0], rows.outputs[0], chosen])]
        chosen = nodes[-1].outputs[0]
    return nodes


def _multiply(node: ir.Node, pieces: Sequence[ir.Value]) -> list[ir.Node]:
    """Return nodes that compute the logits of every piece and concatenate them."""
    products = [ir.node("Gemm", [node.inputs[0], piece], node.attributes) for piece in pieces]
    return [*products, ir.node("Concat", [product.outputs[0] for product in products], {"axis": -1})]
