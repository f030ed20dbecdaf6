"""The documentation site: it builds without warnings, and its links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from paths import ROOT

pytestmark = pytest.mark.full
PAGES = (
    "index",
    "learn/index",
    "reference/commands",
    "reference/runtime",
    "reference/model",
    "bundle-format",
)


class Links(HTMLParser):
    """The links and anchors of a page."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src") and value and tag != "base":
                self.links.append(value)
            if name == "id" and value:
                self.anchors.add(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the built site."""
    folder = tmp_path_factory.mktemp("site")
    options = ("--fail-on-warning", "--keep-going", "--quiet", "-d", folder / "doctrees")
    command = (sys.executable, "-m", "sphinx", *options, ROOT / "docs", folder / "html")
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    return folder / "html"


def broken_links(site: Path) -> list[str]:
    """Return the links of all pages to files or anchors that do not exist."""
    pages = {path.resolve(): Links(path) for path in site.rglob("*.html")}
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            found = target.exists() and (
                not parts.fragment or target not in pages or unquote(parts.fragment) in pages[target].anchors
            )
            if not found:
                broken.append(f"{path.relative_to(site.resolve())}: {link}")
    return broken


def test_every_link_and_anchor_exists(site: Path) -> None:
    assert [name for name in PAGES if not (site / f"{name}.html").exists()] == []
    assert broken_links(site) == []


def test_no_page_loads_anything_from_another_host(site: Path) -> None:
    loads = re.compile(r'<(script|img|link rel="stylesheet")[^>]* (src|href)="(https?:)?//')
    assert [path for path in site.rglob("*.html") if loads.search(path.read_text(encoding="utf-8"))] == []


def test_every_public_name_and_command_is_described(site: Path) -> None:
    from paligemma_onnx import runtime
    from paligemma_onnx.runtime.cli.group import COMMANDS

    described = Links(site / "reference" / "runtime.html").anchors
    assert {name for name in runtime.__all__ if f"paligemma_onnx.runtime.{name}" not in described} == set()
    commands = Links(site / "reference" / "commands.html").anchors
    assert {name for name in COMMANDS if f"paligemma-onnx-{name}" not in commands} == set()


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text('<a href="b.html#there">b</a><a href="c.html">c</a>', encoding="utf-8")
    (tmp_path / "b.html").write_text('<p id="here"></p>', encoding="utf-8")
    assert broken_links(tmp_path) == ["a.html: b.html#there", "a.html: c.html"]
