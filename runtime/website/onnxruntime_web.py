"""Find the npm package onnxruntime-web, whose files a website needs."""

from __future__ import annotations

import json
import re
from pathlib import Path

from ..errors import ProviderError

# The files in `dist` that the page loads: an entry module for the CPU and one for WebGPU. Each entry imports
# its .mjs file, which loads the .wasm file of the same name. tests/web compares the list with the package.
FILES = (
    "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.min.mjs",
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)
MIN_VERSION = (1, 30)
TESTED_VERSION = "1.30.0"
INSTALL = f"npm install onnxruntime-web@{TESTED_VERSION}"


def onnxruntime_web_files(packages: Path) -> dict[str, Path]:
    """Return the paths of onnxruntime-web's files, by name.

    Args:
        packages: folder in which `npm install` was run, or a folder below it.

    Raises:
        ProviderError: the package is not installed, is too old, or lacks a file; the message has the command
            that installs it.
    """
    start = packages.absolute()
    folders = (folder / "node_modules" / "onnxruntime-web" for folder in (start, *start.parents))
    found = next((folder for folder in folders if folder.is_dir()), None)
    if found is None:
        raise ProviderError(
            f"{packages}: no onnxruntime-web in node_modules there or in a folder above; run `{INSTALL}`, or "
            "name its folder with --packages"
        )
    version = _version(found / "package.json")
    if version is None or version < MIN_VERSION:
        needed = ".".join(map(str, MIN_VERSION))
        raise ProviderError(f"{found}: is not version {needed} or newer; run `{INSTALL}`")
    paths = {name: found / "dist" / name for name in FILES}
    if missing := [name for name, path in paths.items() if not path.is_file()]:
        raise ProviderError(f"{found}: has no dist/{missing[0]}; run `{INSTALL}`")
    return paths


def _version(package: Path) -> tuple[int, int] | None:
    """Return the major and minor version in a package.json, or None if the file is damaged."""
    try:
        match = re.match(r"(\d+)\.(\d+)\.", json.loads(package.read_bytes())["version"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return None if match is None else (int(match[1]), int(match[2]))
