"""What a bundle says of itself: the one file the runtime reads to know a model.

The exporter builds these dataclasses and the runtime reads them back, so a fact is written in one place.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import dacite

from ..errors import BundleError
from .check_manifest import check_manifest
from .schema import SCHEMA_VERSION, Manifest

MANIFEST = "manifest.json"
ID_LENGTH = 32  # hexadecimal digits of a bundle id: 128 bits
MAX_MANIFEST_BYTES = 4 << 20  # a manifest of a 46-layer model is 60 kB


def compute_bundle_id(manifest: Manifest) -> str:
    """A bundle's id: a hash of all its manifest says but that id, and the graph files, which carry it.

    The digests of the graphs as they were without the id stand for those files.
    """
    carriers = [graph.file for graph in manifest.graphs.every]
    files = {name: spec for name, spec in sorted(manifest.files.items()) if name not in carriers}
    nameless = replace(manifest, bundle_id="", files=files)
    return hashlib.sha256(nameless.to_json().encode()).hexdigest()[:ID_LENGTH]


def read_manifest(folder: Path) -> Manifest:
    """Read and check `manifest.json`.

    Raises:
        BundleError: the file is missing, damaged, of a newer schema, names a path outside the folder, or
            contradicts itself.
    """
    path = folder / MANIFEST
    data = _read_json(path)
    version = data.get("schema_version")
    if not isinstance(version, int) or version < 1:
        raise BundleError(
            f"{path}: schema_version is not a positive whole number; export the checkpoint again"
        )
    if version > SCHEMA_VERSION:
        raise BundleError(
            f"{path}: schema {version} is newer than this release reads ({SCHEMA_VERSION}); "
            "update it with `pip install -U paligemma-onnx`"
        )
    try:
        manifest = dacite.from_dict(Manifest, data, dacite.Config(strict=True))
        check_manifest(manifest)
        if compute_bundle_id(manifest) != manifest.bundle_id:
            raise ValueError("is altered: what it says does not give its bundle_id")
    except dacite.UnexpectedDataError as error:
        problem = f"has a field that is not known, {sorted(map(ascii, error.keys))[0]}"
    except dacite.DaciteFieldError as error:
        missing = isinstance(error, dacite.MissingValueError)
        problem = f"{error.field_path} is {'missing' if missing else 'of a wrong type'}"
    except ValueError as error:
        problem = str(error)
    else:
        return manifest
    raise BundleError(f"{path}: {problem}; export the checkpoint again")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.exists() and not path.is_file():
            raise BundleError(f"{path}: not a regular file; export the checkpoint again")
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise BundleError(f"{path}: larger than {MAX_MANIFEST_BYTES} bytes, not a manifest")
        data = _without_lists(json.loads(path.read_bytes()))
    except FileNotFoundError:
        raise BundleError(
            f"{path}: no such file; `paligemma-onnx export CHECKPOINT --output {path.parent}` makes a bundle"
        ) from None
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise BundleError(f"{path}: not valid JSON; export the checkpoint again") from None
    if not isinstance(data, dict):
        raise BundleError(f"{path}: not a JSON object; export the checkpoint again")
    return data


def _without_lists(value: Any) -> Any:
    """Tuples for lists, as the fields have; and text for true and false, which would pass as 1 and 0."""
    if isinstance(value, dict):
        return {key: _without_lists(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return tuple(_without_lists(entry) for entry in value)
    return str(value) if isinstance(value, bool) else value
