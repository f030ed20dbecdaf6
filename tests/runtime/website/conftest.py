"""A made-up page and a made-up npm package, in place of the built page and of onnxruntime-web."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paligemma_onnx.runtime.website import site
from paligemma_onnx.runtime.website.onnxruntime_web import FILES


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A folder in which `npm install onnxruntime-web` was run."""
    folder = tmp_path / "project"
    dist = folder / "node_modules" / "onnxruntime-web" / "dist"
    dist.mkdir(parents=True)
    (dist.parent / "package.json").write_text(json.dumps({"version": "1.30.0"}))
    for name in (*FILES, "ort.all.min.mjs"):
        (dist / name).write_text(f"content of {name}")
    return folder


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the built page."""
    folder = tmp_path / "page"
    folder.mkdir()
    for name in ("index.html", "main.js", "style.css"):
        (folder / name).write_text(f"content of {name}")
    monkeypatch.setattr(site, "PAGE", folder)
    return folder
