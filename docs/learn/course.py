"""Figure style, the included model, and a display of source code for the chapters of the course."""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import torch
from IPython.display import Markdown

from paligemma_onnx.export.demo.shipped_model import FOLDER

ROOT = Path(__file__).parents[2]  # of the repository
CHECKPOINT = ROOT / "export" / "demo" / FOLDER  # the included model, trained on drawn scenes

sys.path.append(str(ROOT))  # training/ is not installed
torch.set_num_threads(1)  # small models gain nothing from a second thread, and lose on a busy machine
mpl.rcParams.update(
    {
        "figure.dpi": 90,  # a figure of 7 x 3 inches takes about 20 KB
        "figure.constrained_layout.use": True,
        "figure.facecolor": "white",  # readable on a dark page, too
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": "medium",
        "font.size": 9,
        "image.cmap": "viridis",
    }
)


def show_source(*objects: Callable[..., object] | type) -> Markdown:
    """Return the source code of functions or classes, each below its file and line."""
    parts = []
    for described in objects:
        lines, first = inspect.getsourcelines(described)
        path = Path(inspect.getfile(described)).resolve().relative_to(ROOT)
        code = textwrap.dedent("".join(lines)).rstrip()
        parts.append(f"`{path.as_posix()}`, line {first}:\n\n```python\n{code}\n```")
    return Markdown("\n\n".join(parts))
