"""The benchmark commands that need Node, run on the included model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from javascript import find_chromium

from benchmarks import web_agreement, web_memory, web_speed

pytestmark = pytest.mark.web


def test_web_agreement(shipped_bundle: Path, tmp_path: Path) -> None:
    """In Node, fp32 gives all golden ids."""
    file = tmp_path / "figures.json"
    arguments = [str(shipped_bundle), "--runtime", "onnxruntime-node", "--json", str(file)]
    result = CliRunner().invoke(web_agreement.main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    (agreement,) = json.loads(file.read_text(encoding="utf-8"))["results"]
    assert agreement["answers"] == agreement["prompts"] == 32
    assert agreement["agreeing"] == agreement["tokens"] > 200


def test_web_speed(shipped_bundle: Path, layout: Callable[[str, str, str], Path], tmp_path: Path) -> None:
    """Both systems answer with the same ids, and every figure is a positive number."""
    find_chromium()
    (tmp_path / "included-fp32").symlink_to(shipped_bundle)
    (tmp_path / "included-fp32.js").symlink_to(layout("shipped", "transformers.js", "fp32"))
    file = tmp_path / "figures.json"
    options = ["--precisions", "fp32", "--threads", "1", "--rounds", "1", "--requests", "1", "--tokens", "4"]
    arguments = ["--work", str(tmp_path), *options, "--json", str(file)]
    result = CliRunner().invoke(web_speed.main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    figures = json.loads(file.read_text(encoding="utf-8"))
    assert figures["same_ids"] == {"included fp32": 4}
    assert [row["system"] for row in figures["medians"]] == ["paligemma-onnx", "transformers.js"]
    for row in figures["medians"]:
        assert all(row[name] > 0 for name in ("load_s", "first_token_s", "tokens_per_second", "total_s"))
    assert all(seconds > 0 for seconds in figures["pageReadyS"])


def test_web_memory(shipped_bundle: Path, tmp_path: Path) -> None:
    """Every stage is reached, and a request that fails is a row with the reason."""
    find_chromium()
    file = tmp_path / "figures.json"
    options = [
        "--runtimes",
        "onnxruntime-node,chromium",
        "--threads",
        "1",
        "--tokens",
        "2",
        "--json",
        str(file),
    ]
    arguments = [str(shipped_bundle), *options]
    result = CliRunner().invoke(web_memory.main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    native, browser = json.loads(file.read_text(encoding="utf-8"))["results"]
    for row in (native, browser):
        assert "problem" not in row
        assert all(row[name] > 0 for name in ("loadS", "firstTokenS", "tokensPerSecond", "residentBytes"))
        assert row["bundleBytes"] > 10**6
    assert native["wasmBytes"] == 0 < browser["wasmBytes"] < 2**32
    failed = web_memory.measure(shipped_bundle, "onnxruntime-node", 0, 2)
    assert "threads is 0" in failed["problem"]
