"""`verify` on a layout: hashes, and graphs that load with the listed files only."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from command_line import run_in_process
from damage import copy_folder, edit_json

from paligemma_onnx.runtime import BundleError
from paligemma_onnx.runtime.diagnostics.verify import verify_layout

Layout = Callable[[str, str, str], Path]
CASE = "gemma2_window"
GRAPH = {"transformers.js": "onnx/embed_tokens{suffix}.onnx", "genai": "embedding.onnx"}


def edit_graph(folder: Path, name: str, change: Callable[[onnx.GraphProto], object]) -> None:
    """Apply `change` to a graph of a layout, and update its size and hash in the record."""
    model = onnx.load(folder / name, load_external_data=False)
    change(model.graph)
    content = model.SerializeToString()
    (folder / name).write_bytes(content)
    spec = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    edit_json(folder / "paligemma_onnx.json", lambda record: record["files"].update({name: spec}))


def move_weights(graph: onnx.GraphProto) -> None:
    """Make the first weight that is in a file refer to other.onnx_data."""
    tensor = next(tensor for tensor in graph.initializer if tensor.external_data)
    (entry,) = [entry for entry in tensor.external_data if entry.key == "location"]
    entry.value = "other.onnx_data"


def rename_output(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        node.output[:] = ["renamed" if name == "inputs_embeds" else name for name in node.output]
    graph.output[0].name = "renamed"


@pytest.mark.parametrize(
    ("kind", "dtype", "suffix"),
    [("transformers.js", "fp32", ""), ("transformers.js", "fp16", "_fp16"), ("genai", "q4", "")],
)
def test_weights_in_a_file_that_is_not_listed(
    layout: Layout, tmp_path: Path, kind: str, dtype: str, suffix: str
) -> None:
    """The graphs of fp16 are not opened; the names of weight files in them are compared."""
    folder = copy_folder(layout(CASE, kind, dtype), tmp_path / "model")
    graph = GRAPH[kind].format(suffix=suffix)
    data = folder / f"{graph}_data"
    shutil.copy(data, data.with_name("other.onnx_data"))
    verify_layout(folder, lambda _: None)  # other files may be in the folder
    edit_graph(folder, graph, move_weights)
    with pytest.raises(BundleError, match=r"weights .*are in 'other\.onnx_data', which") as caught:
        verify_layout(folder, lambda _: None)
    assert str(caught.value).startswith(str(folder / graph))


def test_graphs_with_another_interface(
    layout: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy_folder(layout(CASE, "transformers.js", "fp32"), tmp_path / "model")
    edit_graph(folder, "onnx/embed_tokens.onnx", rename_output)
    result = run_in_process(capsys, "verify", folder)
    assert (result.code, result.out) == (4, "")
    assert "embed_tokens.onnx: outputs differ from the manifest: inputs_embeds, renamed" in result.error
