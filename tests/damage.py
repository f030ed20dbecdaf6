"""Copies of checkpoints and bundles with one thing changed."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from safetensors.torch import load_file, save_file
from torch import Tensor


def copied(folder: Path, target: Path) -> Path:
    """The folder again, writable."""
    shutil.copytree(folder, target)
    return target


def edit_json(path: Path, change: Callable[[Any], object]) -> None:
    """Read a file, change what it holds in place, write it."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_tensors(checkpoint: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """The same for the weights of a checkpoint of one file."""
    path = checkpoint / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def edit_graph(bundle: Path, name: str, change: Callable[[onnx.ModelProto], object]) -> None:
    """The same for a graph of a bundle; the manifest then has its new size and hash."""
    path = bundle / name
    model = onnx.load(path, load_external_data=False)
    change(model)
    content = model.SerializeToString()
    path.write_bytes(content)
    spec = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    edit_json(bundle / "manifest.json", lambda manifest: manifest["files"].update({name: spec}))


def flip_bit(path: Path) -> None:
    """One bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def endless(manifest: dict[str, Any]) -> None:
    """Make an answer end only with its length: no stop id is ever chosen."""
    manifest["tokens"]["stop"] = [manifest["tokens"]["image"]]
