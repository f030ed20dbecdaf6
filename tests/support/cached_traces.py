"""Exports without the tracing, which takes nearly all the time of a small one: graphs come from a bundle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir

from paligemma_onnx.export.graphs.specs import GraphDefinition
from paligemma_onnx.export.graphs.trace import Traced
from paligemma_onnx.model.paligemma import PaliGemma


def graphs_of(bundle: Path) -> Callable[[GraphDefinition, PaliGemma], Traced]:
    """A stand-in for `trace` that gives the graphs of a finished bundle of the same configuration."""

    def reused(verb: GraphDefinition, _: PaliGemma) -> Traced:
        model = ir.load(bundle / verb.spec.file)
        model.metadata_props.clear()
        transposed = set()
        for name, value in model.graph.initializers.items():
            if isinstance(value.const_value, ir.ExternalTensor):
                value.const_value = None
                if {use.node.op_type for use in value.uses()} == {"MatMul"}:
                    transposed.add(name)
        return Traced(model, frozenset(transposed))

    return reused
