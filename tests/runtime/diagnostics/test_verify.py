"""Messages about graphs that do not load, and weights in files that the manifest does not list."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from damage import copy_folder, edit_graph, edit_manifest

from paligemma_onnx.runtime import BundleError, PaliGemma
from paligemma_onnx.runtime.diagnostics.verify import verify

Folders = Callable[[str], Path]
Change = Callable[[onnx.ModelProto], object]


@pytest.fixture
def copy(bundle: Folders, tmp_path: Path) -> Path:
    return copy_folder(bundle("gemma_one_kv_head"), tmp_path / "bundle")


def with_weights_in(file: str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        tensor = next(tensor for tensor in model.graph.initializer if tensor.external_data)
        tensor.name, old = "moved.weight", tensor.name
        for node in model.graph.node:
            node.input[:] = ["moved.weight" if name == old else name for name in node.input]
        (entry,) = [entry for entry in tensor.external_data if entry.key == "location"]
        entry.value = file

    return change


def with_ir_version(model: onnx.ModelProto) -> None:
    model.ir_version = 99


def with_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 99


def with_domain(model: onnx.ModelProto) -> None:
    model.graph.node[3].domain = "com.example"
    model.graph.node[3].op_type = "Swish"
    model.opset_import.append(onnx.helper.make_opsetid("com.example", 1))


def with_operator(model: onnx.ModelProto) -> None:
    model.graph.node[3].op_type = "Swosh"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (with_ir_version, "made for a newer onnxruntime; install one with `pip install -U onnxruntime`"),
        (with_opset, "made for a newer onnxruntime"),
        (with_domain, "onnxruntime has no operator 'com.example:Swish'"),
        (with_operator, "onnxruntime has no operator 'Swosh'"),
        (
            with_weights_in("none.data"),
            "weights of 'moved.weight' are in '.*none.data', which is missing",
        ),
        (
            with_weights_in("../w.data"),
            r"weights of 'moved.weight' are in '\.\./w.data', which is missing or",
        ),
        (with_weights_in("/etc/passwd"), "the weights of 'moved.weight' are outside the bundle"),
    ],
)
def test_the_cause_is_named(copy: Path, change: Change, words: str) -> None:
    edit_graph(copy, "decode.onnx", change)
    shutil.copy(copy / "decoder.data", copy.parent / "w.data")
    for action in (lambda: PaliGemma.load(copy, device="cpu"), lambda: verify(copy, lambda _: None)):
        with pytest.raises(BundleError, match=words) as caught:
            action()
        assert str(caught.value).startswith(str(copy / "decode.onnx"))
        assert str(caught.value).isprintable()


def test_weights_in_a_file_that_is_not_listed(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(copy / "decoder.data", copy / "other.data")
    verify(copy, lambda _: None)  # other files may be in the folder
    edit_graph(copy, "decode.onnx", with_weights_in("other.data"))
    with pytest.raises(BundleError, match=r"decode\.onnx: the weights of 'moved.weight' are in 'other.data'"):
        verify(copy, lambda _: None)

    def no_folder(*_: object, **__: object) -> None:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "mkdtemp", no_folder)
    lines: list[str] = []
    verify(copy, lines.append)
    assert "files that the manifest does not list are not detected" in lines[-1]


def test_nothing_is_left_behind(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = sorted(tmp_path.iterdir())
    verify(copy, lambda _: None)
    assert sorted(tmp_path.iterdir()) == before


def test_weights_of_graphs_for_a_gpu(copy: Path) -> None:
    """Such graphs are not opened: the names in them are compared."""
    edit_manifest(copy, lambda manifest: manifest["precision"].update(devices=["cuda"]))
    verify(copy, lambda _: None)
    edit_graph(copy, "decode.onnx", with_weights_in("other.data"))
    with pytest.raises(BundleError, match=r"decode\.onnx: its weights are in 'other.data', which"):
        verify(copy, lambda _: None)
