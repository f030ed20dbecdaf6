"""ONNX operators without a counterpart in torch, as parts of a traced graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def apply_operator(
    name: str,
    inputs: Sequence[Tensor | None],
    attributes: Mapping[str, int | float],
    like: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    """Insert one operator into the traced graph.

    Args:
        name: an operator of ONNX, or of another domain (`com.microsoft::Name`).
        inputs: inputs in the operator's order; None omits an optional one.
        attributes: attributes by name.
        like: tensors with the dtypes and shapes of the outputs.

    Returns:
        The outputs, without values.
    """
    outputs = torch.onnx.ops.symbolic_multi_out(
        name if "::" in name else f"::{name}",
        inputs,
        dict(attributes),
        dtypes=[tensor.dtype for tensor in like],
        shapes=[tensor.shape for tensor in like],
    )
    # The tracer creates the outputs on the CPU, whatever the device of the inputs.
    return tuple(output.to(tensor.device) for output, tensor in zip(outputs, like, strict=True))
