"""The tensor table and operator counts of an export, compared with the onnx library; and damaged tables."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from command_line import run_in_process
from damage import copy_folder, edit_json, edit_manifest

from paligemma_onnx.runtime.bundle.dtypes import DTYPES
from paligemma_onnx.runtime.bundle.manifest import read_manifest
from paligemma_onnx.runtime.bundle.tensor_table import MAX_TABLE_BYTES, read_tensor_table
from paligemma_onnx.runtime.errors import BundleError

CASE = "gemma_one_kv_head"


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph and of the branches of `If` in it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from all_nodes(attribute.g)


def compare(folder: Path) -> None:
    manifest = read_manifest(folder)
    table = read_tensor_table(folder, manifest)
    for name, graph in manifest.graphs.by_name.items():
        expected = onnx.load(folder / graph.file, load_external_data=False).graph
        operators = Counter(
            f"{node.domain}.{node.op_type}" if node.domain else node.op_type for node in all_nodes(expected)
        )
        assert graph.operators == operators
        assert list(graph.operators.values()) == sorted(operators.values(), reverse=True)
        external = [tensor for tensor in expected.initializer if tensor.external_data]
        assert len(table.graphs[name]) == len(external) > 10
        for tensor, initializer in zip(table.graphs[name], external, strict=True):
            entries = {entry.key: entry.value for entry in initializer.external_data}
            assert (tensor.name, tensor.shape) == (initializer.name, tuple(initializer.dims))
            assert DTYPES[tensor.dtype].onnx_type == initializer.data_type
            assert tensor.file == entries["location"]
            assert tensor.offset == int(entries.get("offset", 0))
            assert tensor.length == int(entries["length"])


def test_fp32(bundle: Callable[[str], Path]) -> None:
    compare(bundle(CASE))


@pytest.mark.parametrize("precision", ["int4", "int8"])
def test_quantized(rounded: Callable[[str, str], Path], precision: str) -> None:
    compare(rounded(CASE, precision))


def test_half_precision(cuda_bundle: Callable[[str, str], Path]) -> None:
    compare(cuda_bundle("gemma2_window", "bf16"))


def test_text_is_reproduced(bundle: Callable[[str], Path]) -> None:
    folder = bundle(CASE)
    table = read_tensor_table(folder, read_manifest(folder))
    assert table.to_json() == (folder / "tensors.json").read_text()


def test_dtypes_agree_with_onnx() -> None:
    for name, dtype in DTYPES.items():
        expected = onnx.helper.tensor_dtype_to_np_dtype(dtype.onnx_type)
        assert str(expected) == name
        assert expected.itemsize == dtype.bytes


@pytest.fixture
def copy(bundle: Callable[[str], Path], tmp_path: Path) -> Path:
    return copy_folder(bundle(CASE), tmp_path / "bundle")


def seal(folder: Path) -> None:
    """Write size and hash of the table into the manifest, as an exporter that wrote it would have."""
    content = (folder / "tensors.json").read_bytes()
    spec = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    edit_manifest(folder, lambda manifest: manifest["files"].update({"tensors.json": spec}))


def setting(*path: str | int, to: Any) -> Callable[[Any], object]:
    def change(table: Any) -> None:
        for key in path[:-1]:
            table = table[key]
        table[path[-1]] = to

    return change


FIRST = ("graphs", "prefill", 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (setting("graphs", to={}), "lists other graphs than the manifest"),
        (setting("graphs", to=1), "graphs is of a wrong type"),
        (setting("operators", to=1), "an unknown field, 'operators'"),
        (setting("graphs", "other", to=[]), "lists other graphs"),
        (setting(*FIRST, "dtype", to="float8"), "dtype is of a wrong type"),
        (setting(*FIRST, "shape", to=[-1]), "has a negative size or offset"),
        (setting(*FIRST, "shape", to=[1 << 40]), "ends after the end of decoder.data"),
        (setting(*FIRST, "offset", to=-1), "has a negative size or offset"),
        (setting(*FIRST, "offset", to=1 << 40), "ends after the end of decoder.data"),
        (setting(*FIRST, "offset", to=True), "offset is of a wrong type"),
        (setting(*FIRST, "file", to="../x"), "lies in '../x', which the manifest does not list"),
        (setting(*FIRST, "matrix", to={"part": "\x1b[", "layer": None, "bits": 4}), "is not printable"),
        (setting(*FIRST, "matrix", to={"part": "x", "layer": None}), "bits is missing"),
    ],
)
def test_damaged_tables(
    copy: Path, change: Callable[[Any], object], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    edit_json(copy / "tensors.json", change)
    seal(copy)
    result = run_in_process(capsys, "inspect", copy)
    assert (result.code, result.out) == (4, "")
    assert "tensors.json: " in result.error
    assert words in result.error


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b"[]", b" " * (MAX_TABLE_BYTES + 1)])
def test_files_without_a_table(copy: Path, content: bytes) -> None:
    (copy / "tensors.json").write_bytes(content)
    seal(copy)
    with pytest.raises(BundleError, match=r"tensors.json: (not valid JSON|not a JSON object|larger than)"):
        read_tensor_table(copy, read_manifest(copy))


def test_operator_names_are_printable(copy: Path) -> None:
    edit_manifest(copy, setting("graphs", "decode", "operators", to={"\x1b[": 1}))
    with pytest.raises(BundleError, match=r"graphs.decode.operators counts 1 of '\\x1b\['"):
        read_manifest(copy)


def test_operator_counts_are_positive(copy: Path) -> None:
    edit_manifest(copy, setting("graphs", "decode", "operators", to={"Add": 0}))
    with pytest.raises(BundleError, match=r"graphs.decode.operators counts 0 of 'Add'"):
        read_manifest(copy)


def test_an_altered_table(copy: Path) -> None:
    text = (copy / "tensors.json").read_text()
    (copy / "tensors.json").write_text(text.replace("prefill", "preFill"))
    with pytest.raises(BundleError, match=r"tensors\.json is altered"):
        read_tensor_table(copy, read_manifest(copy))
    assert json.loads(text)["graphs"].keys() == read_manifest(copy).graphs.by_name.keys()
