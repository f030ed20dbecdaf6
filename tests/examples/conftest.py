"""Fixtures of the examples' tests: a working folder like a clone, and the included model."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from paths import ROOT

from paligemma_onnx.runtime import PaliGemma


@pytest.fixture
def clone(shipped_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder like a clone in which `paligemma-onnx demo --output demo-output` has run."""
    for name in ("examples", "export", "tests", "training"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "demo-output").mkdir()
    (tmp_path / "demo-output" / "bundle").symlink_to(shipped_bundle)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    return tmp_path


@pytest.fixture
def model(shipped_bundle: Path) -> PaliGemma:
    return PaliGemma.load(shipped_bundle, device="cpu")
