"""Programs in pages of the docs."""

from __future__ import annotations

from pathlib import Path


def code_block(page: Path, language: str) -> str:
    """Return the only block of code in a language on a page."""
    _, block, *others = page.read_text(encoding="utf-8").split(f"```{language}\n")
    assert not others
    return block.partition("```")[0]
