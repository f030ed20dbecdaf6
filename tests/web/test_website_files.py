"""The `web` command copies exactly the files of onnxruntime-web that the page loads."""

from __future__ import annotations

import re

import pytest
from paths import ROOT

from paligemma_onnx.runtime.website.onnxruntime_web import FILES, onnxruntime_web_files

pytestmark = pytest.mark.web

ENTRIES = ("ort.wasm.min.mjs", "ort.webgpu.min.mjs")  # imported by web/page/worker.ts
IMPORTED = re.compile(r"ort-wasm[\w.-]*?\.(?:mjs|wasm)")


def test_the_files_are_those_that_the_modules_name() -> None:
    paths = onnxruntime_web_files(ROOT / "web")
    named, unread = set[str](), set(ENTRIES)
    while unread:
        name = unread.pop()
        named.add(name)
        if name.endswith(".mjs"):
            unread |= set(IMPORTED.findall(paths[name].read_text(encoding="utf-8"))) - named
    assert named == set(FILES)
