"""Change one property of a copied checkpoint or bundle."""

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


def copy_folder(folder: Path, target: Path) -> Path:
    """Copy a folder and return the copy, which a test may change."""
    shutil.copytree(folder, target)
    return target


def edit_json(path: Path, change: Callable[[Any], object]) -> None:
    """Apply `change` to the content of a JSON file, in place."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_tensors(checkpoint: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Apply `change` to the tensors of a checkpoint that has one weight file, in place."""
    path = checkpoint / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def edit_graph(bundle: Path, name: str, change: Callable[[onnx.ModelProto], object]) -> None:
    """Apply `change` to a graph of a bundle, and update its size and hash in the manifest."""
    path = bundle / name
    model = onnx.load(path, load_external_data=False)
    change(model)
    content = model.SerializeToString()
    path.write_bytes(content)
    spec = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    edit_json(bundle / "manifest.json", lambda manifest: manifest["files"].update({name: spec}))


def name_graph(bundle_id: str) -> Callable[[onnx.ModelProto], object]:
    """Return a change that writes a bundle's id into a graph."""

    def change(model: onnx.ModelProto) -> None:
        (entry,) = [entry for entry in model.metadata_props if entry.key == "paligemma_onnx.bundle_id"]
        entry.value = bundle_id

    return change


def edit_manifest(bundle: Path, change: Callable[[Any], object]) -> None:
    """Apply `change` to a manifest, and update the bundle's id in it and in the graphs, as an export does."""

    def change_and_rename(manifest: Any) -> None:
        change(manifest)
        files = {name: spec for name, spec in manifest["files"].items() if not name.endswith(".onnx")}
        text = json.dumps(manifest | {"bundle_id": "", "files": dict(sorted(files.items()))}, indent=2) + "\n"
        manifest["bundle_id"] = hashlib.sha256(text.encode()).hexdigest()[:32]

    edit_json(bundle / "manifest.json", change_and_rename)
    bundle_id = json.loads((bundle / "manifest.json").read_text())["bundle_id"]
    for graph in bundle.glob("*.onnx"):
        edit_graph(bundle, graph.name, name_graph(bundle_id))


def flip_bit(path: Path) -> None:
    """Flip one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def disable_stop_ids(manifest: dict[str, Any]) -> None:
    """Make answers stop only at their maximum length: the stop id becomes one that is never generated."""
    manifest["tokens"]["stop"] = [manifest["tokens"]["image"]]
