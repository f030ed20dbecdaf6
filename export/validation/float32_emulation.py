"""Run a half-precision graph on the CPU: half precision between operators, float32 within them.

onnxruntime has few half-precision kernels for CPUs. The emulation therefore casts the inputs of each operator
to float32 and rounds the outputs back to half precision. A GPU does the same: it multiplies half-precision
numbers, sums the products in float32 and rounds the sum. The emulation and a GPU can differ in the last bit,
but only where a GPU kernel rounds between its internal steps. A bundle for a GPU can thus be checked without
a GPU. The emulation is much slower than a float32 bundle and is not meant for production.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir as ir

from paligemma_onnx.runtime.bundle.schema import GraphSpec, Manifest
from paligemma_onnx.runtime.engine.devices import Placement
from paligemma_onnx.runtime.engine.session import open_serialized

HALF_TYPES = (ir.DataType.BFLOAT16, ir.DataType.FLOAT16)
# Operators that move values without computing. onnxruntime has CPU kernels of these operators for every type.
DATA_MOVEMENT_OPS = {
    "Cast",
    "Concat",
    "Expand",
    "Gather",
    "Reshape",
    "Shape",
    "Slice",
    "Split",
    "Squeeze",
    "TensorScatter",
    "Transpose",
    "Unsqueeze",
}
# Index of the input that has the dtype of the outputs. For operators not listed here it is the first input.
TYPE_INPUT = {"GatherBlockQuantized": 2}


def needs_emulation(manifest: Manifest, placement: Placement) -> bool:
    """Return whether the bundle's graphs must be emulated because the device lacks kernels for them."""
    return placement.device not in manifest.precision.devices


def open_float32_emulation(folder: Path, graph: GraphSpec, placement: Placement) -> Any:
    """Open a bundle's graph in float32 emulation on the CPU, and return its onnxruntime session.

    Graph optimisation is off, because constant folding would keep all weights in memory as float32.
    """
    path = folder / graph.file
    return open_serialized(emulate_in_float32(path), placement, weights_folder=path.parent)


def emulate_in_float32(path: Path) -> bytes:
    """Return the graph of the file `path` in a serialized form that a CPU can run.

    The weights of the returned graph stay in the external files to which `path` refers.
    """
    model = ir.load(path)
    graph = model.graph
    dtypes = {value: value.dtype for value in (*graph.inputs, *graph.initializers.values())}
    for node in list(graph):
        type_input = node.inputs[TYPE_INPUT.get(node.op_type, 0)]
        dtype = None if type_input is None else dtypes[type_input]
        match node.op_type:
            case "Cast":
                dtype = ir.DataType(node.attributes["to"].as_int())
            case "Shape":
                dtype = ir.DataType.INT64
        for index, output in enumerate(node.outputs):
            dtypes[output] = ir.DataType.INT64 if (node.op_type, index) == ("TopK", 1) else dtype
        halves = {value for value in node.inputs if value is not None and dtypes[value] in HALF_TYPES}
        if halves and node.op_type not in DATA_MOVEMENT_OPS:
            _insert_casts(graph, node, halves, dtypes)
    serialized: bytes = ir.to_proto(model).SerializeToString()
    return serialized


def _insert_casts(
    graph: ir.Graph, node: ir.Node, halves: set[ir.Value], dtypes: dict[ir.Value, ir.DataType | None]
) -> None:
    """Cast the half-precision inputs of a node to float32, and cast its outputs back to half precision."""
    for value in sorted(halves, key=lambda value: value.name or ""):
        cast = ir.node("Cast", [value], {"to": int(ir.DataType.FLOAT)})
        dtypes[cast.outputs[0]] = ir.DataType.FLOAT
        graph.insert_before(node, cast)
        for index, node_input in enumerate(node.inputs):
            if node_input is value:
                node.replace_input_with(index, cast.outputs[0])
    for output in node.outputs:
        half = dtypes[output]
        if not output.name or half not in HALF_TYPES:
            continue
        rounded = ir.Value()
        ir.convenience.replace_all_uses_with(output, rounded, replace_graph_outputs=True)
        if rounded.is_graph_output():
            rounded.name, rounded.shape, rounded.type = output.name, output.shape, ir.TensorType(half)
            output.name, output.shape, output.type = f"{output.name}.float32", None, None
        dtypes[rounded], dtypes[output] = half, ir.DataType.FLOAT
        graph.insert_after(node, ir.node("Cast", [output], {"to": int(half)}, outputs=[rounded]))
