"""A graph in half precision as a CPU runs it: the same numbers between operators, float32 within them.

The engine has few kernels of half precision for CPUs. So each operator gets its inputs cast to float32, and
what it gives is rounded back: what a GPU does, which multiplies halves, sums in float32 and rounds the sum.
Only where a kernel rounds between its own steps may the two differ in a last bit. That makes a bundle for a
GPU checkable where there is none; it is much slower than float32, and no way to run one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir as ir

from paligemma_onnx.runtime.bundle.schema import GraphSpec, Manifest
from paligemma_onnx.runtime.engine.devices import Placement
from paligemma_onnx.runtime.engine.session import open_plain

HALVES = (ir.DataType.BFLOAT16, ir.DataType.FLOAT16)
# Operators that move numbers and do not compute: CPUs have them for every type.
MOVERS = {
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
# Which input has the outputs' dtype, where it is not the first.
LIKE = {"GatherBlockQuantized": 2}


def needs_emulation(manifest: Manifest, placement: Placement) -> bool:
    """Whether a bundle's graphs can only be run in this way where they are to run."""
    return placement.device not in manifest.recipe.devices


def open_float32_emulation(folder: Path, graph: GraphSpec, placement: Placement) -> Any:
    """A session of a bundle's graph on the CPU.

    It is not optimised: an engine that folds constants would keep all weights in float32.
    """
    return open_plain(emulate_in_float32(folder / graph.file), placement, beside=folder)


def emulate_in_float32(path: Path) -> bytes:
    """A graph file as one that a CPU runs, its weights still in the files beside it."""
    model = ir.load(path)
    graph = model.graph
    dtypes = {value: value.dtype for value in (*graph.inputs, *graph.initializers.values())}
    for node in list(graph):
        like = node.inputs[LIKE.get(node.op_type, 0)]
        dtype = None if like is None else dtypes[like]
        match node.op_type:
            case "Cast":
                dtype = ir.DataType(node.attributes["to"].as_int())
            case "Shape":
                dtype = ir.DataType.INT64
        for index, output in enumerate(node.outputs):
            dtypes[output] = ir.DataType.INT64 if (node.op_type, index) == ("TopK", 1) else dtype
        halves = {value for value in node.inputs if value is not None and dtypes[value] in HALVES}
        if halves and node.op_type not in MOVERS:
            _widen(graph, node, halves, dtypes)
    serialized: bytes = ir.to_proto(model).SerializeToString()
    return serialized


def _widen(
    graph: ir.Graph, node: ir.Node, halves: set[ir.Value], dtypes: dict[ir.Value, ir.DataType | None]
) -> None:
    """Put casts around a node."""
    for value in sorted(halves, key=lambda value: value.name or ""):
        cast = _cast(value, ir.DataType.FLOAT)
        dtypes[cast.outputs[0]] = ir.DataType.FLOAT
        graph.insert_before(node, cast)
        for index, taken in enumerate(node.inputs):
            if taken is value:
                node.replace_input_with(index, cast.outputs[0])
    for output in node.outputs:
        narrow = dtypes[output]
        if not output.name or narrow not in HALVES:
            continue
        back = _cast(output, narrow)
        rounded = back.outputs[0]
        uses = [(use.node, use.idx) for use in output.uses() if use.node is not back]
        for user, index in uses:
            user.replace_input_with(index, rounded)
        for index, given in enumerate(graph.outputs):
            if given is output:
                graph.outputs[index] = rounded
                rounded.shape, rounded.type = output.shape, ir.TensorType(narrow)
                name, output.name = output.name, f"{output.name}.wide"
                output.shape, output.type, rounded.name = None, None, name
        dtypes[rounded], dtypes[output] = narrow, ir.DataType.FLOAT
        graph.insert_after(node, back)


def _cast(value: ir.Value, dtype: ir.DataType) -> ir.Node:
    return ir.node("Cast", [value], {"to": int(dtype)})
