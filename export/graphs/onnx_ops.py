"""Operators that torch has not, as parts of a traced graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def operator(
    name: str,
    inputs: Sequence[Tensor | None],
    attributes: Mapping[str, int | float],
    like: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    """One operator of ONNX, or of another domain (`com.microsoft::Name`).

    Args:
        name: the operator's.
        inputs: in its order; None leaves one out.
        attributes: by name.
        like: tensors with the dtypes and shapes of its outputs.
    """
    outputs = torch.onnx.ops.symbolic_multi_out(
        name if "::" in name else f"::{name}",
        inputs,
        dict(attributes),
        dtypes=[tensor.dtype for tensor in like],
        shapes=[tensor.shape for tensor in like],
    )
    # The tracer thinks they are on the CPU.
    return tuple(output.to(tensor.device) for output, tensor in zip(outputs, like, strict=True))
