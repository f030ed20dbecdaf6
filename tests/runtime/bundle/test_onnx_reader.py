"""Graphs read without the onnx library, against that library; and files that are no graphs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from paligemma_onnx.runtime.bundle.onnx_reader import LARGEST, MOST, OnnxFile, read_onnx
from paligemma_onnx.runtime.errors import BundleError

Folders = Callable[[str], Path]
CASE = "gemma_one_kv_head"
SECONDS = 5.0  # no file may take longer; the worst takes under a second where nothing else runs


def counted(graph: onnx.GraphProto) -> Counter[str]:
    """Operators of a graph and of those inside it, by the onnx library."""
    found = Counter[str]()
    for node in graph.node:
        found[f"{node.domain}.{node.op_type}" if node.domain else node.op_type] += 1
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                found += counted(inner)
    return found


def same(read: OnnxFile, model: onnx.ModelProto) -> None:
    assert read.operators == counted(model.graph)
    assert len(read.tensors) == len(model.graph.initializer)
    for tensor, theirs in zip(read.tensors, model.graph.initializer, strict=True):
        assert (tensor.name, tensor.data_type) == (theirs.name, theirs.data_type)
        assert tensor.shape == tuple(theirs.dims)
        external = {entry.key: entry.value for entry in theirs.external_data}
        assert tensor.file == external.get("location")
        assert tensor.offset == int(external.get("offset", 0))
        assert tensor.length == int(external.get("length", 0))


@pytest.mark.parametrize("name", ["vision_encoder", "prefill", "decode"])
def test_the_graphs_of_a_bundle(bundle: Folders, name: str) -> None:
    path = bundle(CASE) / f"{name}.onnx"
    read = read_onnx(path)
    same(read, onnx.load(path, load_external_data=False))
    assert sum(read.operators.values()) > 50
    assert sum(tensor.file is not None for tensor in read.tensors) > 10


def branching() -> onnx.ModelProto:
    """A model with a graph inside a graph, operators of another domain, and tensors of every shape."""
    branch = helper.make_graph([helper.make_node("Abs", ["x"], ["y"], name="a")], "inner", [], [])
    nodes = [
        helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch),
        helper.make_node("MatMulNBits", ["x"], ["w"], domain="com.microsoft", K=3, N=-1),
        helper.make_node("Abs", ["x"], ["v"], alpha=1.5),
    ]
    tensors = [
        helper.make_tensor("empty", TensorProto.FLOAT, [0], []),
        helper.make_tensor("scalar", TensorProto.INT64, [], [7]),
        helper.make_tensor("wide", TensorProto.UINT8, [2, 3], bytes(range(6)), raw=True),
    ]
    return helper.make_model(helper.make_graph(nodes, "outer", [], [], tensors))


def test_graphs_within_graphs(tmp_path: Path) -> None:
    onnx.save(branching(), tmp_path / "g.onnx")
    read = read_onnx(tmp_path / "g.onnx")
    same(read, branching())
    assert read.operators == {"Abs": 3, "If": 1, "com.microsoft.MatMulNBits": 1}


def test_sizes_in_a_packed_field(tmp_path: Path) -> None:
    """As other writers store them: dims (field 1) as one run of varints, 3 and 300."""
    tensor = b"\x0a\x03\x03\xac\x02" + b"\x10\x01" + b"\x42\x01w"
    graph = b"\x2a" + bytes([len(tensor)]) + tensor
    (tmp_path / "g.onnx").write_bytes(b"\x3a" + bytes([len(graph)]) + graph)
    (read,) = read_onnx(tmp_path / "g.onnx").tensors
    assert (read.name, read.shape) == ("w", (3, 300))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged") / "g.onnx"


def refused(path: Path, content: bytes) -> bool:
    """Whether a file is refused, in time and in one line that names it."""
    path.write_bytes(content)
    started, said = time.perf_counter(), None
    try:
        read_onnx(path)
    except BundleError as error:
        said = str(error)
    assert time.perf_counter() - started < SECONDS
    assert said is None or (said.startswith(f"{path}: ") and said.isprintable())
    return said is not None


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2]) + varint(len(content)) + content


def deep(levels: int) -> bytes:
    """A graph with a node with an attribute with a graph with a node ..., so many times."""
    graph = b""
    for _ in range(levels):
        graph = field(1, field(5, field(6, graph)))
    return graph


@pytest.mark.parametrize(
    "content",
    [
        b"",  # no graph
        b"\x3a\x00\x3a\x00",  # two
        b"\x3a\x05\x0a",  # ends too soon
        b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",  # a length that does not end
        b"\x3a" + b"\xff" * 9 + b"\x7f",  # a length of more than 64 bits
        b"\x38\x01",  # a number where the graph should be
        b"\x3b\x3c",  # a group
        b"\x00\x00",  # field 0
        field(7, field(1, field(4, b"\xff\xfe"))),  # an operator that is not UTF-8
        field(7, field(1, field(4, b"\x1b["))),  # one that commands a terminal
        field(7, field(5, b"\x08" + b"\xff" * 9 + b"\x01")),  # a size of -1
        field(7, field(5, b"") * (MOST + 1)),  # more tensors than any bundle has
        field(7, field(5, field(1, b"\x01" * 4000))),  # thousands of dimensions
        field(7, deep(200)),
    ],
    ids=range(14),
)
def test_what_is_no_graph(place: Path, content: bytes) -> None:
    assert refused(place, content)


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such file"):
        read_onnx(tmp_path)
    with (tmp_path / "large.onnx").open("wb") as file:
        file.truncate(LARGEST + 1)
    with pytest.raises(BundleError, match="not a graph"):
        read_onnx(tmp_path / "large.onnx")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_refused_or_read(place: Path, data: st.DataObject) -> None:
    """Any cut or changed bytes: an answer or one line, and never a hang."""
    content = bytearray(branching().SerializeToString())
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    refused(place, bytes(content[: data.draw(st.integers(0, len(content)))]))


def test_a_cut_graph_is_refused(place: Path) -> None:
    content = branching().SerializeToString()
    assert all(refused(place, content[:end]) for end in range(len(content) - 40))
