"""What stands in an ONNX file, without the onnx library: operators, and tensors but for their numbers.

Field numbers are those of onnx.proto (onnx 1.20, IR version 13), which never change.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import BundleError
from .protobuf import WireError, fields, signed, varints

MODEL_GRAPH, MODEL_METADATA = 7, 14
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_INPUT, GRAPH_OUTPUT = 1, 5, 11, 12
NODE_OPERATOR, NODE_ATTRIBUTE, NODE_DOMAIN = 4, 5, 7
ATTRIBUTE_GRAPH, ATTRIBUTE_GRAPHS = 6, 11
TENSOR_DIMS, TENSOR_TYPE, TENSOR_NAME, TENSOR_EXTERNAL = 1, 2, 8, 13
ENTRY_KEY, ENTRY_VALUE = 1, 2
VALUE_NAME, VALUE_TYPE, TYPE_TENSOR, TENSOR_ELEMENT, TENSOR_SHAPE = 1, 2, 1, 1, 2
SHAPE_DIMENSION, DIMENSION_SIZE, DIMENSION_NAME = 1, 1, 2

# TensorProto.DataType of what bundles hold
DTYPES = {1: "float32", 2: "uint8", 7: "int64", 10: "float16", 16: "bfloat16"}

LARGEST = 16 << 20  # bytes; the largest graph of a bundle of 46 layers is under 1 MB
# A file may say anything; with these it takes no more than a second and little memory.
MOST = 100_000  # nodes and tensors together; a bundle of 46 layers has under 5,000
DEEPEST = 8  # graphs within graphs; ours have none
MOST_DIMENSIONS = 32
LONGEST_NAME = 512  # characters of an operator or tensor


@dataclass(frozen=True)
class StoredTensor:
    """An initialiser: what it is, and where its numbers are."""

    name: str
    data_type: int  # of TensorProto.DataType
    shape: tuple[int, ...]
    file: str | None  # that holds its numbers; None: they are in the graph
    offset: int  # bytes, in that file
    length: int  # bytes


@dataclass(frozen=True)
class Value:
    """An input or output."""

    name: str
    data_type: int  # of TensorProto.DataType
    shape: tuple[int | str, ...]  # a string names a dimension that varies


@dataclass(frozen=True)
class OnnxFile:
    """One graph."""

    operators: dict[str, int]  # how often each occurs; those of another domain than ONNX' with the domain
    tensors: tuple[StoredTensor, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    metadata: dict[str, str]


def read_onnx(path: Path) -> OnnxFile:
    """Read a graph's operators, those of graphs inside it too, and its initialisers.

    Raises:
        BundleError: the file is missing, damaged, or larger than a graph is.
    """
    try:
        if not path.is_file():
            raise BundleError(f"{path}: no such file; copy the bundle again, or export it again")
        if path.stat().st_size > LARGEST:
            raise BundleError(f"{path}: larger than {LARGEST:,} bytes, not a graph; export again")
        content = memoryview(path.read_bytes())
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror})") from None
    contents = _Contents()
    try:
        graphs = [_bytes(value) for number, value in fields(content) if number == MODEL_GRAPH]
        if len(graphs) != 1:
            raise WireError("it has not one graph")
        contents.read_graph(graphs[0], DEEPEST)
        inputs, outputs = (_values(graphs[0], kind) for kind in (GRAPH_INPUT, GRAPH_OUTPUT))
        metadata = dict(
            _entry(_bytes(value)) for number, value in fields(content) if number == MODEL_METADATA
        )
    except ValueError as error:  # WireError, or text that is not UTF-8
        raise BundleError(f"{path}: is damaged, no ONNX graph ({error}); export again") from None
    operators = dict(contents.operators.most_common())
    return OnnxFile(operators, tuple(contents.tensors), inputs, outputs, metadata)


@dataclass
class _Contents:
    """What has been read so far."""

    operators: Counter[str] = field(default_factory=Counter)
    tensors: list[StoredTensor] = field(default_factory=list)
    left: int = MOST

    def read_graph(self, graph: memoryview, deeper: int) -> None:
        """Count nodes and keep initialisers; raises WireError."""
        if deeper == 0:
            raise WireError("graphs lie too deep within graphs")
        for number, value in fields(graph):
            if number in (GRAPH_NODE, GRAPH_INITIALIZER):
                self.left -= 1
                if self.left < 0:
                    raise WireError(f"it has more than {MOST:,} nodes and tensors")
            if number == GRAPH_NODE:
                self._read_node(_bytes(value), deeper)
            elif number == GRAPH_INITIALIZER:
                self.tensors.append(_tensor(_bytes(value)))

    def _read_node(self, node: memoryview, deeper: int) -> None:
        operator = domain = ""
        for number, value in fields(node):
            if number == NODE_OPERATOR:
                operator = _text(value)
            elif number == NODE_DOMAIN:
                domain = _text(value)
            elif number == NODE_ATTRIBUTE:
                for inner, graph in fields(_bytes(value)):
                    if inner in (ATTRIBUTE_GRAPH, ATTRIBUTE_GRAPHS):
                        self.read_graph(_bytes(graph), deeper - 1)
        self.operators[operator if domain in ("", "ai.onnx") else f"{domain}.{operator}"] += 1


def _tensor(tensor: memoryview) -> StoredTensor:
    name, data_type = "", 0
    shape: list[int] = []
    external: dict[str, str] = {}
    for number, value in fields(tensor):
        if number == TENSOR_DIMS:
            for size in [value] if isinstance(value, int) else varints(value):
                shape.append(signed(size))
                if len(shape) > MOST_DIMENSIONS:
                    raise WireError("a tensor has too many dimensions")
        elif number == TENSOR_TYPE and isinstance(value, int):
            data_type = value
        elif number == TENSOR_NAME:
            name = _text(value)
        elif number == TENSOR_EXTERNAL:
            key, text = _entry(_bytes(value))
            external[key] = text
    offset, length = (int(external.get(key, "0")) for key in ("offset", "length"))
    if min(*shape, 0, offset, length) < 0:
        raise WireError("a tensor has a negative size")
    return StoredTensor(name, data_type, tuple(shape), external.get("location"), offset, length)


def _entry(entry: memoryview) -> tuple[str, str]:
    """A key and its value."""
    parts = {part: _text(text) for part, text in fields(entry)}
    return parts.get(ENTRY_KEY, ""), parts.get(ENTRY_VALUE, "")


def _values(graph: memoryview, kind: int) -> tuple[Value, ...]:
    """A graph's inputs or outputs."""
    found = []
    for number, value in fields(graph):
        if number == kind:
            found.append(_value(_bytes(value)))
            if len(found) > MOST:
                raise WireError("it has too many inputs or outputs")
    return tuple(found)


def _value(value: memoryview) -> Value:
    name, data_type, shape = "", 0, list[int | str]()
    for number, part in fields(value):
        if number == VALUE_NAME:
            name = _text(part)
        elif number == VALUE_TYPE:
            for tensor in _inside(part, TYPE_TENSOR):
                for inner, what in fields(tensor):
                    if inner == TENSOR_ELEMENT and isinstance(what, int):
                        data_type = what
                    elif inner == TENSOR_SHAPE:
                        shape += [_dimension(one) for one in _inside(what, SHAPE_DIMENSION)]
    if len(shape) > MOST_DIMENSIONS:
        raise WireError("an input or output has too many dimensions")
    return Value(name, data_type, tuple(shape))


def _inside(message: int | memoryview, number: int) -> list[memoryview]:
    return [_bytes(value) for field_number, value in fields(_bytes(message)) if field_number == number]


def _dimension(dimension: memoryview) -> int | str:
    for number, value in fields(dimension):
        if number == DIMENSION_SIZE and isinstance(value, int):
            return signed(value)
        if number == DIMENSION_NAME:
            return _text(value)
    return ""  # it has neither, and varies


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise WireError("a number stands where a message should")
    return value


def _text(value: int | memoryview) -> str:
    """A name of characters that can be shown."""
    text = str(_bytes(value), "utf-8")
    if len(text) > LONGEST_NAME or not text.isprintable():
        raise WireError("a name is none")
    return text
