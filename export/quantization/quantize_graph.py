"""A traced graph's matrices, laid out as a precision asks.

In float32 nothing changes. Otherwise each product becomes onnxruntime's own operator for it
(domain `com.microsoft`), fed with codes and scales:

    MatMul, Outputs    DynamicQuantizeMatMul   8-bit activations, a scale a call
    MatMul, Blocks     MatMulNBits             8-bit activations, a scale a block
    Gather, Blocks     GatherBlockQuantized    rows of the table become float32 when read
    Gemm, Blocks       MatMulNBits             the same table as the head

and, in half precision, where nothing is quantised but weights:

    MatMul, Half       FusedMatMul             weights as they lie in the checkpoint, [N, K]
    MatMul, Blocks     MatMulNBits             weights become half when they are used

Legend: T rows of a call, K inputs, N outputs of a matrix, V vocabulary, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from paligemma_onnx.model.checkpoint.tensor_names import EMBEDDING

from ..graphs.trace import Traced
from ..precisions import BlockQuantized, Float32, HalfPrecision, HalfType, Precision, WeightFormat
from .channel_scaling import INPUT_SCALES
from .encodings import HALVES, Layout, layouts

DOMAIN, VERSION = "com.microsoft", 1  # onnxruntime's own operators (onnxruntime, docs/ContribOperators.md)
# MatMulNBits: activations as 8-bit integers (its contract's `accuracy_level` 4).
INT8_ACTIVATIONS = 4
# Matrices whose input is no norm's output, so that rows (tokens) differ in range.
UNEVEN_ROWS = ("o_proj", "down_proj", "out_proj", "fc2")
HALF_OF: dict[ir.DataType | None, HalfType] = {dtype: half for half, dtype in HALVES.items()}
SMALLEST_RANGE = 1e-30  # a row of zeros is divided by this instead


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of the checkpoint and how a file holds it; two graphs may share one."""

    name: str  # the checkpoint's
    shape: tuple[int, ...]  # the checkpoint's
    form: WeightFormat
    transposed: bool  # float32: stored [K, N]

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """Its arrays, in the order in which they are written."""
        return layouts(self.shape, self.form, transposed=self.transposed)


@dataclass(frozen=True)
class TensorRef:
    """What an initialiser of a graph reads: one array of a stored tensor, in the graph's own shape."""

    stored: StoredTensor
    array: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class QuantizedGraph:
    """A graph whose initialisers know what they read."""

    model: ir.Model
    references: dict[str, TensorRef]  # by initialiser


def quantize_graph(
    traced: Traced, matrices: WeightFormat, table: Float32 | HalfPrecision | BlockQuantized
) -> QuantizedGraph:
    """Put a precision into a graph.

    Args:
        traced: a graph whose initialisers have no values.
        matrices: of linear layers.
        table: of embedding and head.
    """
    graph = traced.model.graph
    references: dict[str, TensorRef] = {}
    for name, weight in list(graph.initializers.items()):
        if weight.const_value is not None:
            continue  # a constant of the graph itself
        shape = tuple(weight.shape.numpy()) if weight.shape is not None else ()
        transposed = name in traced.transposed
        form = _form(name, weight, matrices, table, transposed=transposed)
        plain = tuple(reversed(shape)) if transposed else shape
        stored = StoredTensor(name, plain, form, transposed and isinstance(form, Float32))
        if isinstance(form, Float32):
            references[name] = TensorRef(stored, 0, shape)
            continue
        if isinstance(form, HalfPrecision) and not transposed:
            references[name] = TensorRef(stored, 0, shape)  # a bias, or the table, whose Gemm reads it so
            continue
        layer = _Layer(graph, stored, references)
        graph.initializers.pop(name)  # first: what takes its place may have its name
        for use in tuple(weight.uses()):
            layer.replace(use.node)
    if any(node.domain == DOMAIN for node in graph):
        graph.opset_imports[DOMAIN] = VERSION
    return QuantizedGraph(traced.model, references)


def weight_format(precision: Precision, graph: str) -> WeightFormat:
    """The form of a graph's matrices, by the graph's name in the manifest; float32 for the mask decoder."""
    form: WeightFormat = getattr(precision, graph, Float32())
    return form


def _form(
    name: str,
    weight: ir.Value,
    matrices: WeightFormat,
    table: Float32 | HalfPrecision | BlockQuantized,
    *,
    transposed: bool,
) -> WeightFormat:
    if name != EMBEDDING:
        half = HALF_OF.get(weight.dtype)
        if transposed and (half is not None or not _is_half(matrices)):
            return matrices
        return (
            Float32() if half is None else HalfPrecision(half)
        )  # biases, norms and convolutions stay as they are
    return embedding_format(table, int(weight.shape.numpy()[1]) if weight.shape is not None else 0)


def _is_half(form: WeightFormat) -> bool:
    """Whether its activations are in half precision."""
    return isinstance(form, HalfPrecision) or (isinstance(form, BlockQuantized) and form.dtype != "float32")


def embedding_format(
    table: Float32 | HalfPrecision | BlockQuantized, width: int
) -> Float32 | HalfPrecision | BlockQuantized:
    """The form of a table [V, D]: its rows are looked up in whole blocks, so D sets the largest."""
    return replace(table, size=math.gcd(table.size, width)) if isinstance(table, BlockQuantized) else table


@dataclass(frozen=True)
class _Layer:
    """One matrix of a graph, and the nodes that multiply with it."""

    graph: ir.Graph
    stored: StoredTensor
    references: dict[str, TensorRef]

    def replace(self, node: ir.Node) -> None:
        """Put the quantised operator, and what stands around it, in the node's place."""
        match node.op_type, self.stored.form:
            case "Gather", BlockQuantized() as form:
                new = [self._looked_up(node, form)]
            case (("MatMul" | "Gemm"), form) if node.op_type == "MatMul" or len(node.inputs) == 2:
                new = self._multiplied(node, form)
            case _:
                raise RuntimeError(f"{self.stored.name}: {node.op_type} has no quantised form")
        old, result = node.outputs[0], new[-1].outputs[0]
        ir.convenience.replace_nodes_and_values(self.graph, node, [node], new, [old], [result])

    def _looked_up(self, node: ir.Node, form: BlockQuantized) -> ir.Node:
        outputs, inputs = self.stored.shape
        rows = self._initializer(0, "rows", (outputs, inputs * form.bits // 8))
        attributes = {"bits": form.bits, "block_size": form.size, "gather_axis": 0, "quantize_axis": 1}
        return _node("GatherBlockQuantized", [rows, node.inputs[1], self._initializer(1)], attributes)

    def _multiplied(self, node: ir.Node, form: WeightFormat) -> list[ir.Node]:
        outputs, inputs = self.stored.shape
        x, nodes = node.inputs[0], []
        if isinstance(form, HalfPrecision):
            return [_node("FusedMatMul", [x, self._initializer(0)], {"transB": 1})]
        module = self.stored.name.removesuffix(".weight")
        if module.endswith(".o_proj") and not _is_half(form):
            scaled = ir.node("Mul", [x, self._input_scales(module)])
            nodes.append(scaled)
            x = scaled.outputs[0]
        if isinstance(form, BlockQuantized):
            attributes = {
                "K": inputs,
                "N": outputs,
                "bits": form.bits,
                "block_size": form.size,
            }
            if not _is_half(form):
                attributes["accuracy_level"] = INT8_ACTIVATIONS
            nodes.append(_node("MatMulNBits", [x, self._initializer(0), self._initializer(1)], attributes))
            return nodes
        uneven = module.rpartition(".")[2] in UNEVEN_ROWS
        if uneven:
            ranges = self._ranges(x)
            nodes += ranges
            divided = ir.node("Div", [x, ranges[-1].outputs[0]])
            nodes.append(divided)
            x = divided.outputs[0]
        nodes.append(_node("DynamicQuantizeMatMul", [x, self._initializer(1), self._initializer(0)], {}))
        if uneven:
            nodes.append(ir.node("Mul", [nodes[-1].outputs[0], ranges[-1].outputs[0]]))
        return nodes

    def _ranges(self, x: ir.Value | None) -> list[ir.Node]:
        """Largest magnitude of each row of x: float32[..., T, K] -> float32[..., T, 1]."""
        size = ir.node("Abs", [x])
        last_axis = self._constant("last_axis", np.array([-1], np.int64))
        largest = ir.node("ReduceMax", [size.outputs[0], last_axis])
        floor = self._constant("smallest_range", np.array(SMALLEST_RANGE, np.float32))
        return [size, largest, ir.node("Max", [largest.outputs[0], floor])]

    def _initializer(self, array: int, alias: str = "", shape: tuple[int, ...] = ()) -> ir.Value:
        """An array of the matrix; the same bytes may be read in two shapes, under two names."""
        layout = self.stored.layouts[array]
        name = self.stored.name + layout.suffix + (f".{alias}" if alias else "")
        reference = TensorRef(self.stored, array, shape or layout.shape)
        return self._value(name, reference, layout.dtype)

    def _input_scales(self, module: str) -> ir.Value:
        shape = (self.stored.shape[1],)
        stored = StoredTensor(f"{module}.{INPUT_SCALES}", shape, Float32(), transposed=False)
        return self._value(stored.name, TensorRef(stored, 0, shape), ir.DataType.FLOAT)

    def _value(self, name: str, reference: TensorRef, dtype: ir.DataType) -> ir.Value:
        if name not in self.graph.initializers:
            self.references[name] = reference
            self.graph.initializers.add(
                ir.Value(name=name, shape=ir.Shape(reference.shape), type=ir.TensorType(dtype))
            )
        return self.graph.initializers[name]

    def _constant(self, name: str, value: NDArray[Any]) -> ir.Value:
        if name not in self.graph.initializers:
            constant = ir.tensor(value, name=name)
            self.graph.initializers.add(
                ir.Value(
                    name=name,
                    shape=ir.Shape(value.shape),
                    type=ir.TensorType(constant.dtype),
                    const_value=constant,
                )
            )
        return self.graph.initializers[name]


def _node(operator: str, inputs: list[ir.Value | None], attributes: dict[str, int]) -> ir.Node:
    return ir.node(operator, inputs, attributes, domain=DOMAIN)
