"""Attention of a prefill or of a decode step, chosen when the graph runs.

The two need different inputs. In a prefill all tokens of a row see each other, so no mask is needed; a mask
would take as much memory as the scores of one head. Without padding, a prefill attends only to the tokens of
the call. In a decode step of several tokens, a token must not see those after it. A decode step also gains
from folding: several query heads of a key-value head become rows of one matrix product, as if they were
tokens, so that the keys are read once for all of them.

The tracer cannot trace a branch between operators that torch does not have. It inserts a placeholder, which
`expand_prefix_or_step` replaces by the ONNX operator `If`.

Shapes: docs/notation.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from paligemma_onnx.model.config import TextConfig

from .constants import add_constant

_DOMAIN = "paligemma_onnx"
_NAME = "PrefixOrStepAttention"
# The placeholder.
# Inputs: bool[], true for a prefill; bool[], true if no row is padded; query float[B, L, A * H]; keys and
# values of the new tokens, float[B, L, K * H]; keys and values of the cache, float[B, C, K * H]; mask
# bool[B, 1, L * F, C] of a decode step; int64[B], slots of each row in use after the call.
# Attributes: query_heads A, kv_heads K, head_dim H, folded F, scale, softcap. Output: float[B, L, A * H].
PREFIX_OR_STEP = f"{_DOMAIN}::{_NAME}"
# onnxruntime distributes the heads that remain after folding over threads. PaliGemma 1, where eight query
# heads share one key-value head, has two remaining heads per row.
MAX_FOLDED_HEADS = 4


def count_folded_heads(config: TextConfig) -> int:
    """Return the number of query heads per key-value head that are folded into the token axis, F."""
    return math.gcd(config.query_groups, MAX_FOLDED_HEADS)


def expand_prefix_or_step(model: ir.Model) -> None:
    """Replace every placeholder of a traced graph by the operator `If` with two branches."""
    for node in [node for node in model.graph if (node.domain, node.op_type) == (_DOMAIN, _NAME)]:
        name = node.outputs[0].name
        is_prefill, is_unpadded, query, new_key, new_value, key, value, mask, lengths = node.inputs
        # With one key-value head, a prefill needs no folding. With several, `Attention` pairs query heads in
        # the order of PackedCheckpoint with their key-value heads only if they are folded.
        folds_prefill = node.attributes["kv_heads"].as_int() > 1
        prefill = _attention(model.graph, node, (query, key, value, None, lengths), folds_prefill)
        step = _attention(model.graph, node, (query, key, value, mask, lengths), folds=True)
        unpadded = _unpadded_attention(model.graph, node, (query, new_key, new_value))
        if unpadded:
            branches = {
                "then_branch": _subgraph(unpadded, f"{name}.unpadded"),
                "else_branch": _subgraph(prefill, f"{name}.padded"),
            }
            prefill = [ir.node("If", [is_unpadded], branches)]
        branches = {
            "then_branch": _subgraph(prefill, f"{name}.prefill"),
            "else_branch": _subgraph(step, f"{name}.step"),
        }
        choice = ir.node("If", [is_prefill], branches)
        ir.convenience.replace_nodes_and_values(
            model.graph, node, [node], [choice], list(node.outputs), list(choice.outputs)
        )
    model.opset_imports.pop(_DOMAIN, None)


def _subgraph(nodes: list[ir.Node], prefix: str) -> ir.Graph:
    """Return a branch of `If`, whose output is that of the last node.

    All values get names that begin with `prefix`, because a graph and its branches share one set of names.
    """
    for index, value in enumerate(output for node in nodes for output in node.outputs):
        value.name = f"{prefix}.{index}"
    return ir.Graph([], [nodes[-1].outputs[0]], nodes=nodes, name="attention")


def _unpadded_attention(graph: ir.Graph, node: ir.Node, inputs: Sequence[ir.Value | None]) -> list[ir.Node]:
    """Return attention of the tokens of an unpadded prefill to each other; empty if `Attention` is faster."""
    query, key, value = inputs
    query_heads, kv_heads, head_dim, folded = (
        node.attributes[name].as_int() for name in ("query_heads", "kv_heads", "head_dim", "folded")
    )
    scale, cap = (node.attributes[name].as_float() for name in ("scale", "softcap"))
    if cap and kv_heads * folded == query_heads:
        fold = _reshape(graph, "folded_heads", query, kv_heads * head_dim)
        nodes = _capped_attention(graph, (fold.outputs[0], key, value), kv_heads, scale, cap)
        return [fold, *nodes, _reshape(graph, "unfolded_heads", nodes[-1].outputs[0], query_heads * head_dim)]
    if cap or kv_heads != 1:
        return []
    # On a CPU this operator computes tiles of the scores, which takes less time for thousands of tokens and
    # no memory for all scores. It needs as many key-value heads as query heads. As rows of one head, the
    # query heads would need no copies, but WebGPU computes wrong results if there are more queries than keys.
    copies = [ir.node("Concat", [each] * query_heads, {"axis": 2}) for each in (key, value)]
    attributes: dict[str, int | float] = {"num_heads": query_heads, "scale": scale}
    operands = [query, *(copy.outputs[0] for copy in copies)]
    return [*copies, ir.node("MultiHeadAttention", operands, attributes, domain="com.microsoft")]


def _capped_attention(
    graph: ir.Graph, inputs: Sequence[ir.Value | None], kv_heads: int, scale: float, cap: float
) -> list[ir.Node]:
    """Return attention with a soft cap, computed head by head in operators that onnxruntime vectorises.

    The operator `Attention` takes 1.4 to 1.7 times as long, because its soft cap is as slow as its products.
    One head at a time needs memory for the scores of one head.
    """
    cap_value = add_constant(graph, "softcap", np.array(cap, np.float32))
    splits = [
        ir.node("Split", [each], {"axis": 2, "num_outputs": kv_heads}, num_outputs=kv_heads)
        for each in inputs
    ]
    nodes, mixed = list(splits), []
    for query, key, value in zip(*(split.outputs for split in splits), strict=True):
        scores = ir.node(
            "FusedMatMul", [query, key], {"transB": 1, "alpha": scale / cap}, domain="com.microsoft"
        )
        tanh = ir.node("Tanh", [scores.outputs[0]])
        capped = ir.node("Mul", [tanh.outputs[0], cap_value])
        weights = ir.node("Softmax", [capped.outputs[0]], {"axis": -1})
        mixed.append(ir.node("MatMul", [weights.outputs[0], value]))
        nodes += [scores, tanh, capped, weights, mixed[-1]]
    return [*nodes, ir.node("Concat", [each.outputs[0] for each in mixed], {"axis": 2})]


def _attention(
    graph: ir.Graph, node: ir.Node, inputs: Sequence[ir.Value | None], folds: bool
) -> list[ir.Node]:
    """Return attention to the cache, with query heads as rows if `folds` is true."""
    query, key, value, mask, lengths = inputs
    query_heads, kv_heads, head_dim, folded = (
        node.attributes[name].as_int() for name in ("query_heads", "kv_heads", "head_dim", "folded")
    )
    nodes: list[ir.Node] = []
    folds = folds and folded > 1
    heads = query_heads // folded if folds else query_heads
    if folds:
        nodes.append(_reshape(graph, "folded_heads", query, heads * head_dim))
        query = nodes[-1].outputs[0]
    attributes = {
        "q_num_heads": heads,
        "kv_num_heads": kv_heads,
        "scale": node.attributes["scale"].as_float(),
        "softcap": node.attributes["softcap"].as_float(),
        "is_causal": 0,
    }
    nodes.append(ir.node("Attention", [query, key, value, mask, None, None, lengths], attributes))
    if folds:
        nodes.append(_reshape(graph, "unfolded_heads", nodes[-1].outputs[0], query_heads * head_dim))
    return nodes


def _reshape(graph: ir.Graph, name: str, x: ir.Value | None, width: int) -> ir.Node:
    """Return a node that reshapes float[B, ..., ...] to float[B, ..., width].

    Args:
        graph: the graph that gets the constant of the shape.
        name: name of the constant.
        x: input.
        width: size of the last axis.
    """
    return ir.node("Reshape", [x, add_constant(graph, name, np.array([0, -1, width]))])
