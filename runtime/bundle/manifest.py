"""Read `manifest.json`, the file that describes a bundle to the runtime, and compute bundle ids.

The exporter builds the dataclasses of schema.py and the runtime reads them, so each fact is defined once.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from dataclasses import replace
from pathlib import Path

from ..errors import BundleError
from .check_manifest import check_manifest
from .json_file import build, read_json_object
from .layout_record import LAYOUT_RECORD
from .schema import MIN_SCHEMA_VERSION, SCHEMA_VERSION, Manifest

MANIFEST = "manifest.json"
ID_LENGTH = 32  # hexadecimal digits of a bundle id: 128 bits
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")  # owner/name
_URL = re.compile(r"((?:https?|hf|s3|gs):)/+|(?:huggingface|hf)\.co/")
MAX_MANIFEST_BYTES = 4 << 20  # the manifest of a 46-layer model is 60 kB


def compute_bundle_id(manifest: Manifest) -> str:
    """Return a bundle's id: a hash of the manifest, excluding the id itself and the graph files' hashes.

    The metadata of a graph file contains the bundle id, so the id cannot depend on the hash of that file.
    Instead the id depends on the digest of the graph before the id was written into it (`GraphSpec.digest`).
    """
    graph_files = [graph.file for graph in manifest.graphs.all]
    files = {name: spec for name, spec in sorted(manifest.files.items()) if name not in graph_files}
    without_id = replace(manifest, bundle_id="", files=files)
    return hashlib.sha256(without_id.to_json().encode()).hexdigest()[:ID_LENGTH]


def read_manifest(folder: Path) -> Manifest:
    """Read and check `manifest.json`, and return the manifest.

    Raises:
        BundleError: the file is missing or damaged, has an older or newer schema, names a path outside the
            folder, or contradicts itself.
    """
    path = folder / MANIFEST
    if not _may_exist(path):
        raise BundleError(_explain_missing(folder))
    data = read_json_object(path, MAX_MANIFEST_BYTES)
    version = data.get("schema_version")
    if not isinstance(version, int) or version < 1:
        raise BundleError(
            f"{path}: schema_version is not a positive whole number; export the checkpoint again"
        )
    if version < MIN_SCHEMA_VERSION:
        raise BundleError(
            f"{path}: schema {version} is older than this release reads ({MIN_SCHEMA_VERSION}); "
            "export the checkpoint again"
        )
    if version > SCHEMA_VERSION:
        raise BundleError(
            f"{path}: schema {version} is newer than this release reads ({SCHEMA_VERSION}); "
            "update it with `pip install -U paligemma-onnx`"
        )
    try:
        manifest = build(Manifest, data)
        check_manifest(manifest)
        if compute_bundle_id(manifest) != manifest.bundle_id:
            raise ValueError("is altered: its content does not match its bundle_id")
    except ValueError as error:
        raise BundleError(f"{path}: {error}; export the checkpoint again") from None
    return manifest


def _may_exist(path: Path) -> bool:
    """Return False if a path does not exist, and True if it exists or if its existence is unknown."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError):  # a loop of links, no permission; a NUL in the name
        return True
    return True


def _explain_missing(folder: Path) -> str:
    """Return a message about a path without `manifest.json`: its kind, and how to make a bundle from it."""
    if url := _URL.match(str(folder)):  # a path has one of the two slashes
        address = f"{url[1]}//{str(folder)[url.end() :]}" if url[1] else folder
        return f"{address}: is a URL; download the bundle and name its folder"
    name = shlex.quote(str(folder))
    command = f"paligemma-onnx export {name} --output BUNDLE"
    from_base = f"paligemma-onnx export BASE_MODEL --output BUNDLE --adapter {name}"
    others = {
        "adapter_config.json": f"a LoRA adapter, not a bundle; export it with its base model: `{from_base}`",
        LAYOUT_RECORD: "for another tool (`export --layout`), not a bundle; export the checkpoint as one",
        "config.json": f"a checkpoint, not a bundle; export it first: `{command}`",
    }
    for file, kind in others.items():
        if _may_exist(folder / file):
            return f"{folder}: is {kind}"
    if not _may_exist(folder) and _HUB_ID.fullmatch(str(folder)):
        return f"{folder}: no such folder; if it is a model of the Hugging Face Hub, export it: `{command}`"
    if _may_exist(folder) and not folder.is_dir():
        return f"{folder}: is a file; name the folder of a bundle, which `paligemma-onnx export` makes"
    command = f"paligemma-onnx export CHECKPOINT --output {name}"
    return f"{folder / MANIFEST}: no such file; `{command}` makes a bundle"
