"""Rewrite a traced graph's matrix products for a precision.

In float32 nothing changes. In other precisions each product is replaced by an operator of onnxruntime (domain
`com.microsoft`) that reads the stored format. Codes and scales are inputs of the operator:

    MatMul, Int8PerChannel     DynamicQuantizeMatMul   8-bit activations, one scale per call
    MatMul, BlockQuantized     MatMulNBits             8-bit activations, one scale per block
    Gather, BlockQuantized     GatherBlockQuantized    rows of the embedding are dequantised when read; in
                               portable graphs, standard operators do this (standard_lookup.py)
    Gemm,   BlockQuantized     MatMulNBits             the output head, the same array as the embedding

If activations are in half precision, only weights are quantised:

    MatMul, HalfPrecision      FusedMatMul             weights stored as in the checkpoint, [out, in]
    MatMul, BlockQuantized     MatMulNBits             weights are dequantised to half precision when read

Portable graphs round only the inputs of products to half precision, and use standard operators
(half_products.py).

Shapes: docs/notation.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from paligemma_onnx.model.checkpoint.tensor_names import EMBEDDING, LM_HEAD

from ..graphs.constants import add_constant
from ..graphs.trace import TracedGraph
from ..precisions import (
    BlockQuantized,
    EmbeddingFormat,
    Float32,
    HalfPrecision,
    Precision,
    WeightFormat,
)
from .channel_scaling import INPUT_SCALES
from .encodings import Layout, array_layouts, float_format, parse_piece_name
from .half_products import half_logits, half_lookup, half_product
from .standard_lookup import lookup_nodes

# Name and version of the domain of onnxruntime's contrib operators (onnxruntime, docs/ContribOperators.md).
ORT_DOMAIN, ORT_VERSION = "com.microsoft", 1
INT8_ACTIVATIONS = 4  # MatMulNBits' `accuracy_level` for activations quantised to int8
# Matrices whose input is not the output of a norm. The range of such an input differs from row to row, that
# is, from token to token.
UNNORMALIZED_INPUTS = ("o_proj", "down_proj", "out_proj", "fc2")
BIAS_INPUT = 4  # index of the input `bias` of DynamicQuantizeMatMul
MIN_ROW_RANGE = 1e-30  # avoids dividing a row of zeros by zero


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of the checkpoint and its format in a weight file. Several graphs may read the same tensor."""

    name: str  # name of the tensor in the checkpoint
    shape: tuple[int, ...]  # shape of the tensor in the checkpoint
    format: WeightFormat
    transposed: bool  # stored as [in, out], in float32 only

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """Layouts of the arrays of the tensor, in the order in which the arrays are written."""
        return array_layouts(self.shape, self.format, transposed=self.transposed)


@dataclass(frozen=True)
class TensorRef:
    """The array that an initializer reads, and the shape in which the graph reads it."""

    stored: StoredTensor
    array: int  # index in `stored.layouts`
    shape: tuple[int, ...]


@dataclass(frozen=True)
class QuantizedGraph:
    """A graph whose initializers have no values yet, and the arrays that its initializers read."""

    model: ir.Model
    references: dict[str, TensorRef]  # key: name of the initializer


def quantize_graph(
    traced: TracedGraph, matrices: WeightFormat, embedding: EmbeddingFormat, *, portable: bool
) -> QuantizedGraph:
    """Rewrite a graph in place for a precision; return it with the arrays that its initializers read.

    Args:
        traced: graph whose weights are initializers without values.
        matrices: format of the linear layers.
        embedding: format of the embedding and of the output head, which are one matrix in most models.
        portable: whether other runtimes will run the graph, too.
    """
    graph = traced.model.graph
    references: dict[str, TensorRef] = {}
    for name, weight in list(graph.initializers.items()):
        if weight.const_value is not None:
            continue  # a constant of the graph, not a weight
        shape = tuple(weight.shape.numpy()) if weight.shape is not None else ()
        transposed = name in traced.transposed_weights
        if parse_piece_name(name)[0] in (EMBEDDING, LM_HEAD):
            format: WeightFormat = fit_blocks_to_rows(embedding, shape[1])
        else:
            format = _choose_format(weight, matrices, transposed=transposed, portable=portable)
        checkpoint_shape = tuple(reversed(shape)) if transposed else shape
        reads_transposed = isinstance(format, Float32) or (isinstance(format, HalfPrecision) and portable)
        stored = StoredTensor(name, checkpoint_shape, format, transposed and reads_transposed)
        # Graphs read a bias, and an embedding that was traced in half precision, as stored; other matrices
        # need another operator.
        if isinstance(format, Float32) or (not transposed and format == float_format(weight.dtype)):
            references[name] = TensorRef(stored, 0, shape)
            continue
        rewriter = _MatrixRewriter(graph, stored, references, portable)
        graph.initializers.pop(name)  # removed before the rewriting, which may add the same name
        for use in tuple(weight.uses()):
            rewriter.replace(use.node)
    if not portable:
        _fuse_biases(graph)
    if any(node.domain == ORT_DOMAIN for node in graph):
        graph.opset_imports[ORT_DOMAIN] = ORT_VERSION
    return QuantizedGraph(traced.model, references)


def weight_format(precision: Precision, graph: str) -> WeightFormat:
    """Return the format of the matrices of a graph, given its name in the manifest.

    The format is float32 for the mask decoder in every precision.
    """
    format: WeightFormat = getattr(precision, graph, Float32())
    return format


def fit_blocks_to_rows(format: EmbeddingFormat, width: int) -> EmbeddingFormat:
    """Return the format of an embedding [V, D] with a block size that divides D = width.

    Lookups read whole blocks of a row.
    """
    if isinstance(format, BlockQuantized):
        return replace(format, block_size=math.gcd(format.block_size, width))
    return format


def _choose_format(
    weight: ir.Value, matrices: WeightFormat, *, transposed: bool, portable: bool
) -> WeightFormat:
    """Return the format of a weight that is not the embedding.

    Only the matrices of linear layers are stored in the format of the precision.
    """
    format = float_format(weight.dtype)
    if transposed and (portable or isinstance(format, HalfPrecision) or not _has_half_activations(matrices)):
        return matrices
    return format


def _has_half_activations(format: WeightFormat) -> bool:
    return isinstance(format, HalfPrecision | BlockQuantized) and format.dtype != "float32"


@dataclass(frozen=True)
class _MatrixRewriter:
    """Replaces the nodes of a graph that multiply by a given matrix or look up rows of this matrix."""

    graph: ir.Graph
    stored: StoredTensor
    references: dict[str, TensorRef]
    portable: bool

    def replace(self, node: ir.Node) -> None:
        """Replace a node by the operator for the stored format and the nodes that the operator needs."""
        match node.op_type, self.stored.format:
            case "Gather", BlockQuantized(bits=bits) if self.portable:
                arrays = self._initializer(0), self._initializer(1)
                new = lookup_nodes(self.graph, *arrays, node.inputs[1], bits)
            case "Gather", BlockQuantized() as format:
                new = [self._lookup_node(node, format)]
            case "Gather", HalfPrecision() if self.portable:
                new = half_lookup(node.inputs[1], self._initializer(0))
            case "Gemm", HalfPrecision() if self.portable:
                new = half_logits(self.graph, node, self._initializer(0))
            case "MatMul", HalfPrecision() if self.portable:
                new = half_product(self.graph, node, self._initializer(0))
            case (("MatMul" | "Gemm"), format) if node.op_type == "MatMul" or len(node.inputs) == 2:
                new = self._product_nodes(node, format)
            case _:
                raise RuntimeError(f"{self.stored.name}: no quantised operator replaces {node.op_type}")
        old, result = node.outputs[0], new[-1].outputs[0]
        ir.convenience.replace_nodes_and_values(self.graph, node, [node], new, [old], [result])

    def _lookup_node(self, node: ir.Node, format: BlockQuantized) -> ir.Node:
        outputs, inputs = self.stored.shape
        rows = self._initializer(0, "rows", (outputs, inputs * format.bits // 8))
        attributes = {
            "bits": format.bits,
            "block_size": format.block_size,
            "gather_axis": 0,
            "quantize_axis": 1,
        }
        return _ort_node("GatherBlockQuantized", [rows, node.inputs[1], self._initializer(1)], attributes)

    def _product_nodes(self, node: ir.Node, format: WeightFormat) -> list[ir.Node]:
        outputs, inputs = self.stored.shape
        x = node.inputs[0]
        nodes: list[ir.Node] = []
        if isinstance(format, HalfPrecision):
            return [_ort_node("FusedMatMul", [x, self._initializer(0)], {"transB": 1})]
        module = self.stored.name.removesuffix(".weight")
        if module.endswith(".o_proj") and not _has_half_activations(format):
            nodes.append(ir.node("Mul", [x, self._input_scales(module)]))
            x = nodes[-1].outputs[0]
        if isinstance(format, BlockQuantized):
            attributes = {"K": inputs, "N": outputs, "bits": format.bits, "block_size": format.block_size}
            if not _has_half_activations(format):
                attributes["accuracy_level"] = INT8_ACTIVATIONS
            arrays = [self._initializer(0), self._initializer(1)]
            return [*nodes, _ort_node("MatMulNBits", [x, *arrays], attributes)]
        has_row_ranges = module.rpartition(".")[2] in UNNORMALIZED_INPUTS
        if has_row_ranges:
            nodes += self._row_range_nodes(x)
            row_ranges = nodes[-1].outputs[0]
            nodes.append(ir.node("Div", [x, row_ranges]))
            x = nodes[-1].outputs[0]
        nodes.append(_ort_node("DynamicQuantizeMatMul", [x, self._initializer(1), self._initializer(0)], {}))
        if has_row_ranges:
            nodes.append(ir.node("Mul", [nodes[-1].outputs[0], row_ranges]))
        return nodes

    def _row_range_nodes(self, x: ir.Value | None) -> list[ir.Node]:
        """Return nodes for the largest magnitude of each row: float32[..., L, in] -> float32[..., L, 1]."""
        magnitude = ir.node("Abs", [x])
        last_axis = add_constant(self.graph, "last_axis", np.array([-1], np.int64))
        maximum = ir.node("ReduceMax", [magnitude.outputs[0], last_axis])
        floor = add_constant(self.graph, "smallest_range", np.array(MIN_ROW_RANGE, np.float32))
        return [magnitude, maximum, ir.node("Max", [maximum.outputs[0], floor])]

    def _initializer(self, array: int, alias: str = "", shape: tuple[int, ...] = ()) -> ir.Value:
        """Return the initializer that reads an array.

        With an alias, return a second initializer, which reads the same array in another shape.
        """
        layout = self.stored.layouts[array]
        name = self.stored.name + layout.suffix + (f".{alias}" if alias else "")
        return self._reference(name, TensorRef(self.stored, array, shape or layout.shape), layout.ir_dtype)

    def _input_scales(self, module: str) -> ir.Value:
        shape = (self.stored.shape[1],)
        stored = StoredTensor(f"{module}.{INPUT_SCALES}", shape, Float32(), transposed=False)
        return self._reference(stored.name, TensorRef(stored, 0, shape), ir.DataType.FLOAT)

    def _reference(self, name: str, reference: TensorRef, dtype: ir.DataType) -> ir.Value:
        self.references[name] = reference
        return self.graph.initializers.setdefault(name, ir.val(name, dtype, reference.shape))


def _fuse_biases(graph: ir.Graph) -> None:
    """Let each product with 8-bit weights add the bias that the node after it adds."""
    for product in tuple(graph):
        if product.op_type != "DynamicQuantizeMatMul":
            continue
        uses = tuple(product.outputs[0].uses())
        if len(uses) != 1 or uses[0].node.op_type != "Add":
            continue
        addition, bias = uses[0].node, uses[0].node.inputs[1 - uses[0].idx]
        if bias is None or not bias.is_initializer():
            continue
        product.resize_inputs(BIAS_INPUT + 1)
        product.replace_input_with(BIAS_INPUT, bias)
        old, new = addition.outputs[0], product.outputs[0]
        ir.convenience.replace_nodes_and_values(graph, addition, [addition], [], [old], [new])


def _ort_node(operator: str, inputs: list[ir.Value | None], attributes: dict[str, int]) -> ir.Node:
    return ir.node(operator, inputs, attributes, domain=ORT_DOMAIN)
