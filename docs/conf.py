"""Configuration of the documentation site; `make docs` builds it."""

from __future__ import annotations

import re
import sys
from importlib.metadata import version as installed_version
from pathlib import Path

from sphinx.application import Sphinx

sys.path.append(str(Path(__file__).parent / "_ext"))

project = "paligemma-onnx"
author = "the authors of paligemma-onnx"
copyright = author
release = version = installed_version(project)

extensions = [
    "myst_nb",  # pages in Markdown and notebooks
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",  # docstrings in Google's style
    "sphinx.ext.viewcode",
    "sphinx_click",
    "sphinx_copybutton",
    "literal_blocks",
    "mathml",
    "source_pages",
]
exclude_patterns = ["_build", "learn/.ipynb_checkpoints"]

nb_execution_mode = "off"  # the chapters are stored with their outputs; the tests execute them
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 4
html_math_renderer = "mathml"
default_role = "code"  # a name in single backticks

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False

html_theme = "furo"
pygments_dark_style = "github-dark"
html_title = project
html_static_path = ["_static"]
html_css_files = ["site.css"]
copybutton_exclude = ".linenos, .gp, .go"


def quote_options(_app: Sphinx, _context: object, lines: list[str]) -> None:
    """Write options in a help text as code, so that their hyphens stay hyphens."""
    for number, line in enumerate(lines):
        if not line.lstrip().startswith(".."):
            parts = line.split("`")  # every second part is code already
            parts[::2] = [re.sub(r"(?<![\w-])--[a-z][a-z-]*", r"``\g<0>``", part) for part in parts[::2]]
            lines[number] = "`".join(parts)


def setup(app: Sphinx) -> None:
    """Register the handlers of help texts."""
    for part in ("description", "options", "epilog"):
        app.connect(f"sphinx-click-process-{part}", quote_options)
