"""Sphinx extension: show indented blocks of docstrings as they stand: formulas, tables, drawings of masks.

In reStructuredText an indented block is a quotation, unless the line before it ends with two colons.
"""

from __future__ import annotations

from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata

BEFORE_NAPOLEON = 400  # priority of the handler; napoleon has 500


def indentation(line: str) -> int:
    """Return the number of spaces at the start of a line."""
    return len(line) - len(line.lstrip())


def mark_blocks(
    _app: Sphinx, _what: str, _name: str, _object: object, _options: object, lines: list[str]
) -> None:
    """Mark each indented block that follows an empty line as literal."""
    marked: list[str] = []
    in_block = False
    outer = 0  # indentation of the last line that is not in a literal block
    for number, line in enumerate(lines):
        after_blank = number > 0 and not lines[number - 1].strip()
        is_inner = bool(line.strip()) and indentation(line) > outer
        if is_inner and after_blank and not in_block:
            marked += [" " * outer + "::", ""]
            in_block = True
        elif line.strip() and not (is_inner and in_block):
            outer, in_block = indentation(line), False
        marked.append(line)
    lines[:] = marked


def setup(app: Sphinx) -> ExtensionMetadata:
    """Register the extension."""
    app.connect("autodoc-process-docstring", mark_blocks, priority=BEFORE_NAPOLEON)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
