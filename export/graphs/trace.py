"""Trace a graph definition into an ONNX graph with the declared names, without weights.

The model is on the meta device, so tracing a 28B model needs no memory for its weights. The initializers of
the result have shapes but no values; bundle/weight_file.py assigns each initializer a position in a file.
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

from .prefix_or_step import expand_prefix_or_step
from .specs import GraphDefinition, example_input

_PARAMETER_PREFIX = "model."  # prefix of the PaliGemma's parameters in the traced modules


@dataclass(frozen=True)
class TracedGraph:
    """A graph, and the names of the weights that the graph reads transposed."""

    model: ir.Model
    transposed_weights: frozenset[str]  # names of matrices stored as [in, out], the order that MatMul reads

    def copy(self) -> TracedGraph:
        """Return an independent copy."""
        return TracedGraph(self.model.clone(), self.transposed_weights)


def trace(definition: GraphDefinition, model: PaliGemma) -> TracedGraph:
    """Return the traced graph of a definition. The model must be on the meta device."""
    with _silenced_tracer():
        inputs = tuple(example_input(spec) for spec in definition.spec.inputs)
        program = torch.export.export(
            definition.module(model).eval(),
            inputs,
            dynamic_shapes=_dynamic_shapes(definition),
            strict=False,
        )
        exported = torch.onnx.export(
            program,
            (),
            dynamo=True,
            opset_version=definition.opset,
            optimize=False,  # the optimizer would read weights, which have no values yet
            verbose=False,
        )
        if exported is None:
            raise RuntimeError("torch.onnx.export returned no program")
        graph_model: ir.Model = exported.model
        _apply_declared_names(graph_model.graph, definition)
        for value in graph_model.graph.initializers.values():
            value.const_value = None
        optimizer.optimize_ir(graph_model, onnx_shape_inference=False)
        transposed_weights = _fold_transposes(graph_model.graph)
        expand_prefix_or_step(graph_model)
        RemoveUnusedNodesPass()(graph_model)  # also removes weights, because the module has the whole model
        _omit_unused_outputs(graph_model.graph)
        _remove_intermediate_types(graph_model.graph)
        ClearMetadataAndDocStringPass()(graph_model)
        NameFixPass()(graph_model)
        graph_model.graph.name = definition.name
        graph_model.metadata_props.clear()
    return TracedGraph(graph_model, transposed_weights)


def _dynamic_shapes(definition: GraphDefinition) -> tuple[object, ...]:
    """Return the dynamic axes of each input.

    The axes of the cache tensors form a nested tuple, because the traced functions take `*past`.
    """
    inputs = definition.spec.inputs
    shapes = tuple(_dynamic_axes(spec) for spec in inputs)
    named = sum(not spec.name.startswith("past_key_values.") for spec in inputs)
    return shapes if named == len(shapes) else (*shapes[:named], shapes[named:])


def _dynamic_axes(spec: TensorSpec) -> dict[int, object]:
    """Return the dynamic axes of an input. The tracer finds out by itself that an axis is a sum of others."""
    return {
        axis: torch.export.Dim.AUTO if " + " in size else torch.export.Dim(size)
        for axis, size in enumerate(spec.shape)
        if isinstance(size, str)
    }


def _apply_declared_names(graph: ir.Graph, definition: GraphDefinition) -> None:
    """Give weights their names in the checkpoint; give inputs and outputs their declared names and shapes."""
    for value in list(graph.initializers.values()):
        graph.initializers.pop(value.name or "")
        value.name = (value.name or "").removeprefix(_PARAMETER_PREFIX)
        graph.initializers.add(value)
    declared = (
        *zip(graph.inputs, definition.spec.inputs, strict=True),
        *zip(graph.outputs, definition.spec.outputs, strict=True),
    )
    for value, spec in declared:
        value.name = spec.name
        value.shape = ir.Shape(spec.shape)


def _fold_transposes(graph: ir.Graph) -> frozenset[str]:
    """Replace MatMul(x, Transpose(weight)) by MatMul(x, weight); return the names of weights to transpose.

    Checkpoints store a linear layer as [out, in]; float32 weight files store it as [in, out]. If onnxruntime
    transposed the weights when it loads a graph, it would keep a second copy of every weight in memory.
    """
    transposed_weights = set()
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
        transposed_weights.add(name)
    return frozenset(transposed_weights)


def _omit_unused_outputs(graph: ir.Graph) -> None:
    """Give each unused output of a contrib operator the empty name, so that the output is not computed."""
    graph_outputs = set(graph.outputs)
    for node in graph:
        for value in node.outputs:
            if node.domain and not value.uses() and value not in graph_outputs:
                value.name = ""


def _remove_intermediate_types(graph: ir.Graph) -> None:
    """Remove shapes and dtypes of inner values, because shape inference finds them again."""
    graph_outputs = set(graph.outputs)
    for node in graph:
        for value in node.outputs:
            if value not in graph_outputs:
                value.shape, value.type = None, None


@contextmanager
def _silenced_tracer() -> Iterator[None]:
    """Suppress warnings of the tracer that do not help a user, such as those about a missing torchvision."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
