"""The benchmark commands that need Node, run on the included model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.web_agreement import main

pytestmark = pytest.mark.web


def test_web_agreement(shipped_bundle: Path, tmp_path: Path) -> None:
    """In Node, fp32 gives all golden ids."""
    file = tmp_path / "figures.json"
    arguments = [str(shipped_bundle), "--runtime", "onnxruntime-node", "--json", str(file)]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    (agreement,) = json.loads(file.read_text(encoding="utf-8"))["results"]
    assert agreement["answers"] == agreement["prompts"] == 32
    assert agreement["agreeing"] == agreement["tokens"] > 200
