"""Constants that nodes of an exported graph read."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray


def add_constant(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    """Return the initializer of this name, which is added to the graph on the first call."""
    value = ir.val(name, const_value=ir.tensor(array, name=name))
    return graph.initializers.setdefault(name, value)
