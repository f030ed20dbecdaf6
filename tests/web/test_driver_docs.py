"""The programs of docs/javascript.md."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from code_blocks import code_block
from javascript import WEB as NPM_PACKAGES
from paths import GOLDEN, ROOT
from web_driver import run_parity

from paligemma_onnx.runtime import PaliGemma

pytestmark = pytest.mark.web

PAGE, DRIVER = ROOT / "docs" / "javascript.md", ROOT / "web"
LABELS = "triangle ; square"


@pytest.fixture
def project(shipped_bundle: Path, tmp_path: Path) -> Path:
    """Return a folder of a program that uses the built npm package."""
    subprocess.run(["npx", "tsc", "-p", "tsconfig.build.json"], cwd=DRIVER, check=True)
    packages = tmp_path / "node_modules"
    packages.mkdir()
    (packages / "paligemma-onnx").symlink_to(DRIVER)
    for name in ("onnxruntime-node", "onnxruntime-web"):
        (packages / name).symlink_to(DRIVER / "node_modules" / name)
    (packages / "sharp").symlink_to(NPM_PACKAGES / "node_modules" / "sharp")
    (tmp_path / "bundle").symlink_to(shipped_bundle)
    (tmp_path / "photo.png").write_bytes((GOLDEN / entry("caption en")["image"]).read_bytes())
    return tmp_path


def entry(prompt: str) -> dict[str, Any]:
    entries: list[dict[str, Any]] = json.loads((GOLDEN / "golden.json").read_text(encoding="utf-8"))
    return next(each for each in entries if each["prompt"] == prompt)


def test_the_program_for_node(project: Path) -> None:
    (project / "program.mjs").write_text(code_block(PAGE, "js"), encoding="utf-8")
    lines = subprocess.check_output(["node", "program.mjs"], cwd=project, text=True).splitlines()
    assert lines[0] == entry("caption en")["text"]
    expected = PaliGemma.load(project / "bundle", device="cpu").detect(project / "photo.png", LABELS)
    assert len(expected) > 0
    assert [line.split()[0] for line in lines if line[0].isalpha()][1:] == [each.label for each in expected]


def test_the_program_for_browsers(project: Path) -> None:
    program = project / "program.mjs"
    program.write_text(code_block(PAGE, "javascript"), encoding="utf-8")
    folders = {"bundle": str(project / "bundle"), "photos": str(project)}
    text = run_parity("page_program", {"program": str(program), "folders": folders}, project)
    assert entry("caption en")["text"] in text
    model = PaliGemma.load(project / "bundle", device="cpu")
    expected = model.segment(project / "photo.png", LABELS, constrained=True)
    assert len(expected) > 0
    for detection in expected:
        assert detection.mask is not None
        assert f"{detection.mask.array.sum()} pixels" in text
