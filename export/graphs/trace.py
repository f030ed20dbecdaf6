"""From a verb to a graph: traced without weights, cleaned, and laid out for the engines.

The model is on the meta device, so a 28B model is traced in the memory of its names. The initialisers of
the result have shapes but no values; weights.py gives each its place in a file.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import onnx_ir as ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, NameFixPass, RemoveUnusedNodesPass
from onnxscript import optimizer

from paligemma_onnx.model.paligemma import PaliGemma
from paligemma_onnx.runtime.bundle.schema import TensorSpec

from .specs import GraphDefinition, example

_PARAMETER_PREFIX = "model."  # of the wrapping module in graphs.py
_NOISY = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")


@dataclass(frozen=True)
class TracedGraph:
    """A graph and which of its weights it wants transposed."""

    model: ir.Model
    transposed_weights: frozenset[str]  # weights stored [in, out], the order MatMul reads

    def copy(self) -> TracedGraph:
        """One that can be changed without the other."""
        return TracedGraph(self.model.clone(), self.transposed_weights)


def trace(verb: GraphDefinition, model: PaliGemma) -> TracedGraph:
    """Trace one verb of a model that is on the meta device."""
    with _quiet():
        inputs = tuple(example(spec) for spec in verb.spec.inputs)
        varying = tuple(_varying(spec) for spec in verb.spec.inputs)
        wrapper = verb.module(model).eval()
        program = torch.export.export(wrapper, inputs, dynamic_shapes=_nest(varying, verb), strict=False)
        exported = torch.onnx.export(
            program,
            (),
            dynamo=True,
            opset_version=verb.opset,
            optimize=False,  # would read the weights, which are not there
            verbose=False,
        )
        if exported is None:
            raise RuntimeError("torch.onnx.export returned no program")
        graph_model: ir.Model = exported.model
        _adopt_names(graph_model, verb)
        for value in graph_model.graph.initializers.values():
            value.const_value = None
        optimizer.optimize_ir(graph_model, onnx_shape_inference=False)
        transposed = _store_transposed(graph_model.graph)
        RemoveUnusedNodesPass()(graph_model)
        _drop_unused_initializers(graph_model.graph)
        _leave_out_unused(graph_model.graph)
        _forget_intermediate_types(graph_model.graph)
        ClearMetadataAndDocStringPass()(graph_model)
        NameFixPass()(graph_model)
        graph_model.graph.name = verb.name
        graph_model.metadata_props.clear()
    return TracedGraph(graph_model, transposed)


def _varying(spec: TensorSpec) -> dict[int, torch.export.Dim]:
    return {axis: torch.export.Dim(size) for axis, size in enumerate(spec.shape) if isinstance(size, str)}


def _nest(varying: tuple[dict[int, torch.export.Dim], ...], verb: GraphDefinition) -> tuple[object, ...]:
    """The cache comes in through *past, which the tracer wants as one nested entry."""
    named = sum(not spec.name.startswith("past_key_values.") for spec in verb.spec.inputs)
    return varying if named == len(varying) else (*varying[:named], varying[named:])


def _adopt_names(model: ir.Model, verb: GraphDefinition) -> None:
    """Give inputs, outputs and weights the names and shapes they are declared with."""
    graph = model.graph
    for value in list(graph.initializers.values()):
        graph.initializers.pop(value.name or "")
        value.name = (value.name or "").removeprefix(_PARAMETER_PREFIX)
        graph.initializers.add(value)
    declared = (
        *zip(graph.inputs, verb.spec.inputs, strict=True),
        *zip(graph.outputs, verb.spec.outputs, strict=True),
    )
    for value, spec in declared:
        value.name = spec.name
        value.shape = ir.Shape(spec.shape)


def _store_transposed(graph: ir.Graph) -> frozenset[str]:
    """Turn MatMul(x, Transpose(weight)) into MatMul(x, weight) with the weight stored the other way round.

    Checkpoints store a linear layer [out, in]. An engine that transposed at load would keep a second copy
    of every weight in memory.
    """
    transposed = set()
    for name, weight in list(graph.initializers.items()):
        uses = weight.uses()
        if weight.const_value is not None or not uses:
            continue
        if not all(use.node.op_type == "Transpose" for use in uses):
            continue
        shape = weight.shape
        if shape is None or len(shape) != 2:
            raise RuntimeError(f"{name}: only matrices are expected to be transposed")
        for use in uses:
            ir.convenience.replace_all_uses_with(use.node.outputs[0], weight)
        for use in uses:
            graph.remove(use.node, safe=True)
        weight.shape = ir.Shape([shape[1], shape[0]])
        transposed.add(name)
    return frozenset(transposed)


def _drop_unused_initializers(graph: ir.Graph) -> None:
    """A verb holds the whole model, its graph only what it computes with."""
    for name, value in list(graph.initializers.items()):
        if not value.uses():
            graph.initializers.pop(name)


def _leave_out_unused(graph: ir.Graph) -> None:
    """An output that nobody reads has no name, and is not computed: operators of other domains only."""
    outputs = set(graph.outputs)
    for node in graph:
        for value in node.outputs:
            if node.domain and not value.uses() and value not in outputs:
                value.name = ""


def _forget_intermediate_types(graph: ir.Graph) -> None:
    """Drop what the tracer noted of inner values: its private symbols say no more than inference does."""
    outputs = set(graph.outputs)
    for node in graph:
        for value in node.outputs:
            if value not in outputs:
                value.shape, value.type = None, None


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence notes of the tracer that no user can act on, such as an absent torchvision."""
    loggers = [logging.getLogger(name) for name in _NOISY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
