"""The page in headless Chromium: load, ask, draw, stop, offline, and messages about what is wrong."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from paths import ROOT

pytestmark = pytest.mark.web

PAGE = ROOT / "runtime" / "website" / "page"
WEB = ROOT / "web"


def test_the_built_page_is_current(tmp_path: Path) -> None:
    """`npm run build` was run after the last change of web/."""
    subprocess.run(["node", "build_page.mjs", str(tmp_path)], cwd=WEB, check=True)
    built = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert built == {file.name: file.read_bytes() for file in PAGE.iterdir()}
