"""Whether a graph's operators have CUDA kernels of the engine, by the list in cuda_kernels.json.

golden/make_cuda_kernels.py makes the list. Types go from a graph's inputs and weights through its operators,
by the operators' declarations: ONNX's, and the engine's for what is not in ONNX.
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
WHOLE = ("int32", "int64", "bool")
# These kernels need cuDNN at run time, which the runtime disables (runtime/engine/cuda_provider.py).
NEED_CUDNN = ("Conv", "ConvTranspose")


@dataclass(frozen=True)
class Declared:
    """An operator's declaration: its version, and the type parameters of its inputs and outputs."""

    version: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    only: dict[str, str]  # the type of parameters that may have but one


def without_kernel(model: onnx.ModelProto) -> list[str]:
    """Nodes that CUDA has no kernel for, each with its operator and types; none that count shapes."""
    found, sizes = [], counting(model)
    for node, declared, types in typed(model, {}):
        if node.name not in sizes and not _has_kernel(node, declared.version, types):
            found.append(f"{node.op_type} {declared.version} of {types} ({node.name})")
    return found


def counting(model: onnx.ModelProto) -> set[str]:
    """Names of nodes that compute sizes, whole numbers from a Shape, as the engine does on the CPU."""
    sizes, names, kinds = set[str](), set[str](), dict[str, str]()
    for node, _, _ in typed(model, kinds):
        whole = all(kinds[name] in WHOLE for name in (*node.input, *node.output) if name)
        if node.op_type == "Shape" or (whole and sizes & set(node.input)):
            sizes |= set(node.output)
            names.add(node.name)
    return names


def typed(
    model: onnx.ModelProto, kinds: dict[str, str]
) -> Iterator[tuple[NodeProto, Declared, dict[str, str]]]:
    """Nodes with the types that their type parameters have; `kinds` is given those of values.

    Raises:
        KeyError: a type that has no name here, or does not follow from the inputs.
    """
    graph, opsets = model.graph, {one.domain: one.version for one in model.opset_import}
    kinds |= {value.name: NAMES[value.type.tensor_type.elem_type] for value in graph.input}
    kinds |= {tensor.name: NAMES[tensor.data_type] for tensor in graph.initializer}
    for node in graph.node:
        declared = _declared(node, opsets)
        types = {_at(declared.inputs, index): kinds[name] for index, name in enumerate(node.input) if name}
        types |= declared.only
        for index, name in enumerate(node.output):
            parameter = _at(declared.outputs, index)
            if name:
                kinds[name] = types[parameter] = _stated(node) or types[parameter]
        yield node, declared, types


def _stated(node: NodeProto) -> str | None:
    """The type of what a node gives, where an attribute says it."""
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to":
            return NAMES[attribute.i]
        if node.op_type in ("Constant", "ConstantOfShape") and attribute.name == "value":
            return NAMES[attribute.t.data_type]
    return None


def _at(parameters: tuple[str, ...], index: int) -> str:
    """The type parameter of an input or output; the last one may be there many times."""
    return parameters[min(index, len(parameters) - 1)]


def _declared(node: NodeProto, opsets: dict[str, int]) -> Declared:
    if node.domain:
        return _of_engine()[node.domain, node.op_type]
    schema = onnx.defs.get_schema(node.op_type, opsets[""], "")
    allowed = {one.type_param_str: one.allowed_type_strs for one in schema.type_constraints}
    inputs, outputs = (tuple(one.type_str for one in side) for side in (schema.inputs, schema.outputs))
    return Declared(schema.since_version, inputs, outputs, _only(allowed, inputs, outputs))


@cache
def _of_engine() -> dict[tuple[str, str], Declared]:
    found = {}
    for schema in state.get_all_operator_schema():
        allowed = {one.type_param_str: one.allowed_type_strs for one in schema.type_constraints}
        inputs, outputs = (tuple(one.typeStr for one in side) for side in (schema.inputs, schema.outputs))
        only = _only(allowed, inputs, outputs)
        found[schema.domain, schema.name] = Declared(schema.since_version, inputs, outputs, only)
    return found


def _only(allowed: Mapping[str, Sequence[str]], *parameters: tuple[str, ...]) -> dict[str, str]:
    """Types that need not be derived: a parameter may be a type itself."""
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
    """By the engine's rule: a kernel without a last version is one of the version it begins with only."""
    if node.op_type in NEED_CUDNN:
        return False
    return any(
        (first == version or (last is not None and first < version <= last))
        and all(types[name] in kinds for name, kinds in constraints.items() if name in types)
        for first, last, constraints in _kernels().get(f"{node.domain}::{node.op_type}", ())
    )
