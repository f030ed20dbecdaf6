"""Attention of a prefill or of a decode step, chosen when the graph runs.

The two need different inputs. In a prefill all tokens of a row see each other, so no mask is needed. A mask
would take as much memory as the scores of one head. In a decode step of several tokens, a token must not see
those after it. A decode step also gains from folding: several query heads of a key-value head become rows of
one matrix product, as if they were tokens, so that the keys are read once for all of them.

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
# Inputs: bool[], true for a prefill; query float[B, L, A * H]; keys and values float[B, C, K * H]; mask
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
        is_prefill, query, key, value, mask, lengths = node.inputs
        # With one key-value head, a prefill needs no folding. With several, `Attention` pairs query heads in
        # the order of PackedCheckpoint with their key-value heads only if they are folded.
        folds_prefill = node.attributes["kv_heads"].as_int() > 1
        branches = {
            "then_branch": _branch(model.graph, node, (query, key, value, None, lengths), folds_prefill),
            "else_branch": _branch(model.graph, node, (query, key, value, mask, lengths), folds=True),
        }
        choice = ir.node("If", [is_prefill], branches)
        ir.convenience.replace_nodes_and_values(
            model.graph, node, [node], [choice], list(node.outputs), list(choice.outputs)
        )
    model.opset_imports.pop(_DOMAIN, None)
    model.graph.opset_imports.pop(_DOMAIN, None)


def _branch(graph: ir.Graph, node: ir.Node, inputs: Sequence[ir.Value | None], folds: bool) -> ir.Graph:
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
    return ir.Graph([], [nodes[-1].outputs[0]], nodes=nodes, name=node.name or "")


def _shape(graph: ir.Graph, name: str, width: int) -> ir.Value:
    """Return the constant [0, -1, width] for Reshape: keep the rows, infer the tokens."""
    value = ir.val(name, const_value=ir.tensor(np.array([0, -1, width]), name=name))
    return graph.initializers.setdefault(name, value)
