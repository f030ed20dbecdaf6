"""Image features brought to the rows that show them, where they are: a graph of its own.

Legend: P pictures, I tokens an image, D width, B batch, k pictures of a row.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from ..bundle.schema import GraphSpec, TensorSpec
from .devices import Placement
from .session import open_plain

GATHER = GraphSpec(
    "gather.onnx",  # Gather and Reshape
    (
        TensorSpec("features", "float32", ("P", "I", "D")),
        TensorSpec("pictures", "int64", ("B", "k")),
    ),
    (TensorSpec("rows", "float32", ("B", "k * I", "D")),),
)


def open_gather(placement: Placement) -> Any:
    """A session; raises ProviderError."""
    return open_plain((files(__package__) / GATHER.file).read_bytes(), placement)
