"""Insert ONNX operators that have no counterpart in torch into a traced graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from paligemma_onnx.model.cache import KeyValue


def apply_operator(
    name: str,
    inputs: Sequence[Tensor | None],
    attributes: Mapping[str, int | float],
    like: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    """Insert one operator into the traced graph and return its outputs.

    Args:
        name: an operator of ONNX, or of another domain (`com.microsoft::Name`).
        inputs: inputs in the order of the operator's definition; None omits an optional input.
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
    # The tracer always creates the outputs on the CPU, even if the inputs are on another device.
    return tuple(output.to(tensor.device) for output, tensor in zip(outputs, like, strict=True))


def scatter_tokens(past: KeyValue, new: tuple[Tensor, Tensor], lengths: Tensor, axis: int) -> KeyValue:
    """Return the cache with the keys and values of new tokens after the slots that each row uses.

    Args:
        past: keys and values; axis 0 has the rows, `axis` the slots.
        new: keys and values of the new tokens, of the same rank as `past`.
        lengths: int64[B], slots of each row in use before the call.
        axis: the axis of the slots.
    """
    scattered = (
        apply_operator("TensorScatter", (cache, tokens, lengths), {"axis": axis}, like=(cache,))[0]
        for cache, tokens in zip(past, new, strict=True)
    )
    return KeyValue(*scattered)
