"""Runtimes for JavaScript: a Node process per runtime, which runs one of the scripts in javascript/."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from shutil import which
from typing import Any

from ..bundle.schema import GraphSpec
from .interface import Arrays, Engine, Graph, GraphError, NotInstalledError
from .messages import read_message, write_message

NODE = "Node.js (the program node)"
END_TIMEOUT = 10.0  # seconds that a worker may take to end


def start_worker(script: str) -> Callable[[Path], AbstractContextManager[Engine]]:
    """Return the function that starts the runtime of a script; the argument is the folder of npm packages."""

    @contextmanager
    def start(packages: Path) -> Iterator[Engine]:
        node = which("node")
        if node is None:
            raise NotInstalledError(NODE)
        with as_file(files(__package__) / "javascript") as scripts:
            command = [node, str(scripts / script), str(packages)]
            pipe = subprocess.PIPE
            with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) as process:
                try:
                    header, _ = _receive(process)
                    if "missing" in header:
                        raise NotInstalledError(header["missing"])
                    yield Engine(header["version"], lambda path, spec: _open_graph(process, path, spec))
                finally:
                    _end(process)

    return start


def _open_graph(process: subprocess.Popen[bytes], path: Path, spec: GraphSpec) -> Graph:
    # A worker that cannot read files by name gets every weight file that the graph may refer to.
    _request(process, {"command": "open", "graph": spec.file, **_files(path)}, {})

    def run(inputs: Arrays) -> Arrays:
        return _request(process, {"command": "run", "graph": spec.file}, inputs)

    return run


def _files(path: Path) -> dict[str, object]:
    """Return the absolute paths of a graph and of the weight files that it names."""
    content = path.read_bytes()
    # Weight files are called NAME.data in a bundle, and NAME.onnx_data, NAME.onnx_data_1, ... in a layout.
    data = [str(each.resolve()) for each in path.parent.glob("*data*") if each.name.encode() in content]
    return {"path": str(path.resolve()), "data": data}


def _request(process: subprocess.Popen[bytes], header: dict[str, object], tensors: Arrays) -> Arrays:
    """Send a request to the worker and return the tensors of its answer.

    Raises:
        GraphError: the runtime failed, or the worker ended.
    """
    assert process.stdin is not None
    try:
        write_message(process.stdin, header, tensors)
    except OSError:
        raise GraphError(f"the worker ended with code {process.wait(END_TIMEOUT)}") from None
    return _receive(process)[1]


def _receive(process: subprocess.Popen[bytes]) -> tuple[dict[str, Any], Arrays]:
    assert process.stdout is not None
    try:
        header, tensors = read_message(process.stdout)
    except EOFError:
        raise GraphError(f"the worker ended with code {process.wait(END_TIMEOUT)}") from None
    if "error" in header:
        raise GraphError(header["error"])
    return header, tensors


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    try:
        process.stdin.close()
        process.wait(END_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired):
        process.kill()
