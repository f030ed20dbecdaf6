"""A graph that gathers the image features of each row of a batch, on the device of the features.

Shapes: docs/notation.md.
"""

from __future__ import annotations

from importlib.resources import files

from ..bundle.schema import GraphSpec, TensorSpec
from .devices import Placement
from .ort import InferenceSession
from .session import open_serialized

# Graph of Gather and Reshape. Its dimension `k` is the number of images of a row (N / I).
GATHER = GraphSpec(
    "gather.onnx",
    (
        TensorSpec("features", "float32", ("P", "I", "D")),
        TensorSpec("pictures", "int64", ("B", "k")),
    ),
    (TensorSpec("rows", "float32", ("B", "k * I", "D")),),
)


def open_gather(placement: Placement) -> InferenceSession:
    """Open the graph, and return its session.

    Raises:
        ProviderError: the device does not start.
        ResourceError: out of memory.
    """
    return open_serialized((files(__package__) / GATHER.file).read_bytes(), placement)
