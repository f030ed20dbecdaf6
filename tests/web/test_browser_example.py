"""The example for browsers in Chromium, opened with the address in its header."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import quote

import pytest
from javascript import WEB
from paths import ROOT
from PIL import Image
from web_driver import open_page

from paligemma_onnx.runtime import PaliGemma
from paligemma_onnx.runtime.conformance.requests import draw_scene

pytestmark = pytest.mark.web

EXAMPLE = ROOT / "examples" / "browser_graphs.html"
ADDRESS = re.compile(r"http://127\.0\.0\.1:8000/(\S+caption%20en)")


@pytest.mark.parametrize(
    ("provider", "prompt"),
    [("wasm", "caption en"), ("webgpu", "answer en how many objects are there?")],  # SwiftShader is slow
)
def test_browser_graphs(shipped_bundle: Path, tmp_path: Path, provider: str, prompt: str) -> None:
    """The folder of the page is like a clone in which `npm install` and the demo have run."""
    model = PaliGemma.load(shipped_bundle, device="cpu")
    (tmp_path / "examples").symlink_to(EXAMPLE.parent)
    (tmp_path / "node_modules").symlink_to(WEB / "node_modules")
    (tmp_path / "demo-output").mkdir()
    (tmp_path / "demo-output" / "bundle").symlink_to(shipped_bundle)
    image = tmp_path / "export" / "demo" / "scene.png"
    image.parent.mkdir(parents=True)
    side = model.manifest.image.size
    # An image of the model's size needs no resizing, so the ids are equal.
    draw_scene().resize((side, side), Image.Resampling.BICUBIC).save(image)
    (address,) = ADDRESS.findall(EXAMPLE.read_text(encoding="utf-8"))
    assert ADDRESS.findall((ROOT / "docs" / "runtimes.md").read_text(encoding="utf-8")) == [address]
    page = address.replace("caption%20en", f"{quote(prompt)}&provider={provider}")
    ids, text = open_page(tmp_path, page).split("\n")
    answer = model.generate(image, prompt)
    assert (json.loads(ids), text) == (list(answer.token_ids), answer.text)
