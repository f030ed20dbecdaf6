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
        is_prefill, is_unpadded, query, new_key, new_value, key, value, mask, lengths = node.inputs
        # With one key-value head, a prefill needs no folding. With several, `Attention` pairs query heads in
        # the order of PackedCheckpoint with their key-value heads only if they are folded.
        folds_prefill = node.attributes["kv_heads"].as_int() > 1
        prefill = _attention(model.graph, node, (query, key, value, None, lengths), folds_prefill)
        step = _attention(model.graph, node, (query, key, value, mask, lengths), folds=True)
        if _can_tile(node):
            tiled = _tiled_attention(model.graph, node, (query, new_key, new_value))
            branches = {"then_branch": _subgraph(tiled), "else_branch": _subgraph(prefill)}
            prefill = [ir.node("If", [is_unpadded], branches)]
        branches = {"then_branch": _subgraph(prefill), "else_branch": _subgraph(step)}
        choice = ir.node("If", [is_prefill], branches)
        ir.convenience.replace_nodes_and_values(
            model.graph, node, [node], [choice], list(node.outputs), list(choice.outputs)
        )
    model.opset_imports.pop(_DOMAIN, None)
    model.graph.opset_imports.pop(_DOMAIN, None)


def _subgraph(nodes: list[ir.Node]) -> ir.Graph:
    """Return a branch of `If`, whose output is that of the last node."""
    return ir.Graph([], [nodes[-1].outputs[0]], nodes=nodes, name="attention")


def _can_tile(node: ir.Node) -> bool:
    """Return whether `MultiHeadAttention` can compute the attention of a prefill.

    On a CPU this operator computes tiles of the scores, which takes half the time for thousands of tokens
    and no memory for all scores. It has no soft cap, and needs as many key-value heads as query heads.
    """
    return node.attributes["kv_heads"].as_int() == 1 and not node.attributes["softcap"].as_float()


def _tiled_attention(graph: ir.Graph, node: ir.Node, inputs: Sequence[ir.Value | None]) -> list[ir.Node]:
    """Return attention of new tokens to each other; all query heads become rows of the one key-value head."""
    query, key, value = inputs
    head_dim = node.attributes["head_dim"].as_int()
    fold = ir.node("Reshape", [query, _shape(graph, "rows_of_one_head", head_dim)])
    attributes = {"num_heads": 1, "scale": node.attributes["scale"].as_float()}
    operands = [fold.outputs[0], key, value]
    attend = ir.node("MultiHeadAttention", operands, attributes, domain="com.microsoft")
    heads = node.attributes["query_heads"].as_int()
    unfold = ir.node("Reshape", [attend.outputs[0], _shape(graph, "unfolded_heads", heads * head_dim)])
    return [fold, attend, unfold]


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
        nodes.append(ir.node("Reshape", [query, _shape(graph, "folded_heads", heads * head_dim)]))
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
        unfolded = _shape(graph, "unfolded_heads", query_heads * head_dim)
        nodes.append(ir.node("Reshape", [nodes[-1].outputs[0], unfolded]))
    return nodes


def _shape(graph: ir.Graph, name: str, width: int) -> ir.Value:
    """Return the constant [0, -1, width] for Reshape: keep the rows, infer the tokens."""
    value = ir.val(name, const_value=ir.tensor(np.array([0, -1, width]), name=name))
    return graph.initializers.setdefault(name, value)
