"""The exchange with JavaScript workers, with fake workers: no Node and no npm packages."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest

from paligemma_onnx.runtime.bundle.schema import GraphSpec
from paligemma_onnx.runtime.conformance.interface import GraphError, NotInstalledError
from paligemma_onnx.runtime.conformance.javascript_worker import start_worker
from paligemma_onnx.runtime.conformance.messages import read_message, write_message

SPEC = GraphSpec("decode.onnx", (), ())
# A worker in Python that answers `open`, doubles the tensors of `run`, and fails on request.
WORKER = """
import sys
from paligemma_onnx.runtime.conformance.messages import read_message, write_message
write_message(sys.stdout.buffer, {header}, {{}})
while True:
    try:
        header, tensors = read_message(sys.stdin.buffer)
    except EOFError:
        break
    if header["command"] == "open":
        write_message(sys.stdout.buffer, {{}}, {{}})
    elif "fail" in tensors:
        write_message(sys.stdout.buffer, {{"error": "no kernel for TensorScatter"}}, {{}})
    elif "end" in tensors:
        sys.exit(9)
    else:
        write_message(sys.stdout.buffer, {{}}, {{name: 2 * each for name, each in tensors.items()}})
"""


@pytest.fixture
def graph_file(tmp_path: Path) -> Path:
    path = tmp_path / "decode.onnx"
    path.write_bytes(b"decoder.data")
    return path


def fake_node(folder: Path, monkeypatch: pytest.MonkeyPatch, header: str) -> None:
    """Put a program `node` first on the path."""
    (folder / "worker.py").write_text(WORKER.format(header=header))
    node = folder / "node"
    search = ":".join(filter(None, sys.path))
    node.write_text(f"#!/bin/sh\nPYTHONPATH={search} exec {sys.executable} {folder / 'worker.py'}\n")
    node.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_messages_keep_every_array() -> None:
    tensors = {
        "ids": np.arange(6).reshape(2, 3).T,
        "empty": np.zeros((1, 0, 4), np.float32),
        "pixels": np.linspace(-1, 1, 5, dtype=np.float32),
    }
    stream = io.BytesIO()
    write_message(stream, {"command": "run", "graph": "décode"}, tensors)
    stream.seek(0)
    header, received = read_message(stream)
    assert header["graph"] == "décode"
    assert list(received) == list(tensors)
    for name, array in tensors.items():
        np.testing.assert_array_equal(received[name], array)
        assert received[name].dtype == array.dtype
    with pytest.raises(EOFError):
        read_message(stream)


def test_a_worker_runs_graphs_and_its_errors_are_reported(
    tmp_path: Path, graph_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_node(tmp_path, monkeypatch, "{'version': '1.2.3'}")
    with start_worker("any.mjs")(tmp_path) as engine:
        assert engine.version == "1.2.3"
        graph = engine.open_graph(graph_file, SPEC)
        values = np.ones((2, 2), np.float32)
        np.testing.assert_array_equal(graph({"x": values})["x"], 2 * values)
        with pytest.raises(GraphError, match="no kernel for TensorScatter"):
            graph({"fail": values})
        with pytest.raises(GraphError, match="the worker ended with code 9"):
            graph({"end": values})
        with pytest.raises(GraphError, match="the worker ended with code 9"):
            graph({"x": values})


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_node(tmp_path, monkeypatch, "{'missing': 'the npm package onnxruntime-node'}")
    with (
        pytest.raises(NotInstalledError, match="the npm package onnxruntime-node"),
        start_worker("any.mjs")(tmp_path),
    ):
        pass


def test_missing_node_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotInstalledError, match=r"Node\.js"), start_worker("any.mjs")(tmp_path):
        pass
