"""A made-up npm package in place of onnxruntime-web."""

from __future__ import annotations

from pathlib import Path

import pytest
from npm_stub import install_onnxruntime_web


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A folder in which `npm install onnxruntime-web` was run."""
    folder = tmp_path / "project"
    install_onnxruntime_web(folder)
    return folder
