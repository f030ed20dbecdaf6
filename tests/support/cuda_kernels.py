"""Check whether onnxruntime has CUDA kernels for a graph's operators, by the list in cuda_kernels.json.

tests/golden/make_cuda_kernels.py makes the list. Types are derived from a graph's inputs and weights through
its operators, by the schemas of ONNX and, for other operators, of onnxruntime.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import onnx
from onnx import NodeProto, TensorProto
from onnxruntime.capi import onnxruntime_pybind11_state as state

LIST = Path(__file__).parent / "cuda_kernels.json"
NAMES = {
    **{TensorProto.FLOAT: "float", TensorProto.DOUBLE: "double", TensorProto.BOOL: "bool"},
    **{TensorProto.FLOAT16: "float16", TensorProto.BFLOAT16: "bfloat16"},
    **{TensorProto.UINT8: "uint8", TensorProto.INT8: "int8"},
    **{TensorProto.INT32: "int32", TensorProto.INT64: "int64"},
}
INTEGER_TYPES = ("int32", "int64", "bool")
# These kernels need cuDNN at run time, which the runtime disables (runtime/engine/cuda_provider.py).
NEED_CUDNN = ("Conv", "ConvTranspose")


@dataclass(frozen=True)
class OperatorSchema:
    """An operator's version, and the type parameters of its inputs and outputs."""

    version: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    fixed: dict[str, str]  # types of parameters that have a single possible type


def without_kernel(model: onnx.ModelProto) -> list[str]:
    """List the nodes that CUDA has no kernel for, except those that compute sizes."""
    missing, sizes = [], size_nodes(model)
    for node, schema, types in infer_types(model, {}):
        if node.name not in sizes and not _has_kernel(node, schema.version, types):
            missing.append(f"{node.op_type} {schema.version} of {types} ({node.name})")
    return missing


def size_nodes(model: onnx.ModelProto) -> set[str]:
    """Return the names of nodes that compute integers from a Shape, which onnxruntime runs on the CPU."""
    sizes, names, kinds = set[str](), set[str](), dict[str, str]()
    for node, _, _ in infer_types(model, kinds):
        integer = all(kinds[name] in INTEGER_TYPES for name in (*node.input, *node.output) if name)
        if node.op_type == "Shape" or (integer and sizes & set(node.input)):
            sizes |= set(node.output)
            names.add(node.name)
    return names


def infer_types(
    model: onnx.ModelProto, kinds: dict[str, str]
) -> Iterator[tuple[NodeProto, OperatorSchema, dict[str, str]]]:
    """Yield each node with its schema and the types of its type parameters; add types of values to `kinds`.

    Raises:
        KeyError: a type is not in NAMES, or does not follow from the inputs.
    """
    graph, opsets = model.graph, {opset.domain: opset.version for opset in model.opset_import}
    kinds |= {value.name: NAMES[value.type.tensor_type.elem_type] for value in graph.input}
    kinds |= {tensor.name: NAMES[tensor.data_type] for tensor in graph.initializer}
    for node in graph.node:
        schema = _schema(node, opsets)
        types = {_at(schema.inputs, index): kinds[name] for index, name in enumerate(node.input) if name}
        types |= schema.fixed
        for index, name in enumerate(node.output):
            parameter = _at(schema.outputs, index)
            if name:
                kinds[name] = types[parameter] = _type_attribute(node) or types[parameter]
        yield node, schema, types


def _type_attribute(node: NodeProto) -> str | None:
    """Return the type of a node's output if an attribute sets it."""
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to":
            return NAMES[attribute.i]
        if node.op_type in ("Constant", "ConstantOfShape") and attribute.name == "value":
            return NAMES[attribute.t.data_type]
    return None


def _at(parameters: tuple[str, ...], index: int) -> str:
    """Return the type parameter of an input or output; the last one may be variadic."""
    return parameters[min(index, len(parameters) - 1)]


def _schema(node: NodeProto, opsets: dict[str, int]) -> OperatorSchema:
    if node.domain:
        return _onnxruntime_schemas()[node.domain, node.op_type]
    schema = onnx.defs.get_schema(node.op_type, opsets[""], "")
    allowed = {each.type_param_str: each.allowed_type_strs for each in schema.type_constraints}
    inputs, outputs = (tuple(each.type_str for each in side) for side in (schema.inputs, schema.outputs))
    return OperatorSchema(schema.since_version, inputs, outputs, _fixed_types(allowed, inputs, outputs))


@cache
def _onnxruntime_schemas() -> dict[tuple[str, str], OperatorSchema]:
    schemas = {}
    for schema in state.get_all_operator_schema():
        allowed = {each.type_param_str: each.allowed_type_strs for each in schema.type_constraints}
        inputs, outputs = (tuple(each.typeStr for each in side) for side in (schema.inputs, schema.outputs))
        fixed = _fixed_types(allowed, inputs, outputs)
        schemas[schema.domain, schema.name] = OperatorSchema(schema.since_version, inputs, outputs, fixed)
    return schemas


def _fixed_types(allowed: Mapping[str, Sequence[str]], *parameters: tuple[str, ...]) -> dict[str, str]:
    """Return the types of parameters with a single possible type; a parameter may be a type itself."""
    choices = {name: [name] for side in parameters for name in side} | dict(allowed)
    return {
        name: kinds[0].removeprefix("tensor(").removesuffix(")")
        for name, kinds in choices.items()
        if len(kinds) == 1
    }


@cache
def _kernels() -> dict[str, list[tuple[int, int | None, dict[str, list[str]]]]]:
    kernels: dict[str, list[tuple[int, int | None, dict[str, list[str]]]]] = json.loads(LIST.read_text())[
        "kernels"
    ]
    return kernels


def _has_kernel(node: NodeProto, version: int, types: dict[str, str]) -> bool:
    """Apply onnxruntime's rule: a kernel without a last version is for its first version only."""
    if node.op_type in NEED_CUDNN:
        return False
    return any(
        (first == version or (last is not None and first < version <= last))
        and all(types[name] in kinds for name, kinds in constraints.items() if name in types)
        for first, last, constraints in _kernels().get(f"{node.domain}::{node.op_type}", ())
    )
