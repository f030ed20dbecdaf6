"""Anchors of the headings of a page."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import nbformat


@cache
def heading_anchors(path: Path) -> frozenset[str]:
    """Return the anchors of a Markdown file or notebook, as code hosts and Sphinx write them."""
    if path.suffix == ".ipynb":
        cells = nbformat.read(path, as_version=4).cells
        text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    else:
        text = path.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return frozenset(re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings)
