"""The example for browsers in Chromium, opened with the address in its header."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from paths import ROOT
from PIL import Image

from paligemma_onnx.runtime import PaliGemma
from paligemma_onnx.runtime.conformance.requests import draw_scene

pytestmark = pytest.mark.web

PACKAGES = Path(__file__).parent
EXAMPLE = ROOT / "examples" / "browser_graphs.html"
PAGE = "docs/runtimes.md"
ADDRESS = re.compile(r"http://127\.0\.0\.1:8000(/\S+)")
NO_CHROMIUM = 3  # exit code of open_page.mjs


@pytest.fixture
def site(shipped_bundle: Path, tmp_path: Path) -> Iterator[str]:
    """Serve a folder like a clone in which `npm install` and the demo have run; return its address."""
    (tmp_path / "examples").symlink_to(EXAMPLE.parent)
    (tmp_path / "node_modules").symlink_to(PACKAGES / "node_modules")
    for name in ("demo-output", "export/demo"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "demo-output" / "bundle").symlink_to(shipped_bundle)
    side = PaliGemma.load(shipped_bundle, device="cpu").manifest.image.size
    # An image of the model's size needs no resizing, so the ids are equal.
    draw_scene().resize((side, side), Image.Resampling.BICUBIC).save(tmp_path / "export/demo/scene.png")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=tmp_path))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("provider", "prompt"),
    [("wasm", "caption en"), ("webgpu", "answer en how many objects are there?")],  # SwiftShader is slow
)
def test_browser_graphs(site: str, shipped_bundle: Path, tmp_path: Path, provider: str, prompt: str) -> None:
    (shown,) = ADDRESS.findall(EXAMPLE.read_text(encoding="utf-8"))
    assert shown in (ROOT / PAGE).read_text(encoding="utf-8")
    assert shown.endswith("&prompt=caption%20en")
    address = site + shown.replace("caption%20en", prompt.replace(" ", "%20"))
    command = ["node", "open_page.mjs", f"{address}&provider={provider}"]
    result = subprocess.run(command, cwd=PACKAGES, capture_output=True, text=True, check=False)
    if result.returncode == NO_CHROMIUM:
        pytest.skip("Chromium is not installed")
    assert result.returncode == 0, result.stderr
    answer = PaliGemma.load(shipped_bundle, device="cpu").generate(tmp_path / "export/demo/scene.png", prompt)
    ids, text, *_ = result.stdout.splitlines()
    assert (json.loads(ids), text) == (list(answer.token_ids), answer.text), result.stderr
