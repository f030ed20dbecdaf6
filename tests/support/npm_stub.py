"""A made-up npm package onnxruntime-web, for tests that run without Node."""

from __future__ import annotations

import json
from pathlib import Path

from paligemma_onnx.runtime.website.onnxruntime_web import FILES


def install_onnxruntime_web(folder: Path) -> Path:
    """Write files as `npm install onnxruntime-web` does in a folder, and return the package's folder."""
    package = folder / "node_modules" / "onnxruntime-web"
    (package / "dist").mkdir(parents=True)
    (package / "package.json").write_text(json.dumps({"version": "1.30.0"}))
    for name in (*FILES, "ort.all.min.mjs"):
        (package / "dist" / name).write_text(f"content of {name}")
    return package
