"""A cache that is updated in place: all its slots are allocated once, and a step writes one of each row.

`com.microsoft.GroupQueryAttention` reads a past and gives a present. Where both are bound to the same memory
it writes the new token's key and value into their slot and leaves the rest alone; and it reads no slot behind
a row's length, whatever stands there. So a step costs what it reads, and copies nothing.

Legend: B batch, A query heads, K key-value heads, H head width, C cache slots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from paligemma_onnx.model.cache import Cache, KeyValue
from paligemma_onnx.model.config import TextConfig
from paligemma_onnx.model.rotary import Rotation
from paligemma_onnx.runtime.errors import OptionError

from .contrib import DOMAIN, VERSION

HEAD_DIM_MULTIPLE = 8  # of the operator's heads


def check_in_place(config: TextConfig) -> None:
    """Raise OptionError for a model whose heads the operator does not take; no published one has such."""
    if config.head_dim % HEAD_DIM_MULTIPLE:
        raise OptionError(
            f"head_dim is {config.head_dim}: a cache updated in place wants a multiple of {HEAD_DIM_MULTIPLE}"
        )


def in_place_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    by: Rotation,
    mask: Tensor,  # noqa: ARG001  follows from lengths and window, which the operator takes
    past: KeyValue | None,
    lengths: Tensor,
    config: TextConfig,
    window: int | None,
) -> tuple[Tensor, KeyValue]:
    """An AttentionCore of one token a row, to be traced only: past and present have the same C slots."""
    if past is None:
        raise ValueError("a cache that is updated in place has to be there")
    query, key = _rotated(query, by, config), _rotated(key, by, config)
    attributes = {
        "num_heads": config.num_attention_heads,
        "kv_num_heads": config.num_key_value_heads,
        "scale": config.query_pre_attn_scalar**-0.5,
        "softcap": config.attn_logit_softcapping or 0.0,  # 0: no cap
        "local_window_size": -1 if window is None else window,  # the token itself counts, as in step_mask
    }
    used = lengths.to(torch.int32)  # `seqlens_k`: slots in use after the step, less 1
    longest = (lengths.max() + 1).to(torch.int32)  # `total_sequence_length`
    mixed, keys, values = _operator(
        f"{DOMAIN}::GroupQueryAttention",
        (query, key, value, *past, used, longest),
        attributes,
        like=(query, *past),
    )
    return mixed, KeyValue(keys, values)


def _rotated(x: Tensor, by: Rotation, config: TextConfig) -> Tensor:
    """`rotate` as one operator: float[B, 1, A*H] -> the same.

    The operator looks angles up in a table by position. The angles of this step are such a table, in which
    row b's stand at b. (GroupQueryAttention can rotate as well, but wants the table of all positions.)
    """
    rows = torch.arange(x.shape[0], device=x.device)[:, None]
    attributes = {"num_heads": x.shape[2] // config.head_dim}
    (rotated,) = _operator(
        f"{DOMAIN}::RotaryEmbedding", (x, rows, by.cos[:, 0, 0], by.sin[:, 0, 0]), attributes, like=(x,)
    )
    return rotated


def with_room(cache: Cache, slots: Tensor) -> Cache:
    """A cache with free slots behind those in use: float[B, K, P, H] -> float[B, K, C, H], slots int64[1]."""
    free = slots - cache[0].key.shape[2]
    none = torch.zeros_like(free)
    pads = torch.cat([none, none, none, none, none, none, free, none])  # before each axis, then behind each

    def padded(tensor: Tensor) -> Tensor:
        # Its shape here is that of what it pads: an input's value is not a size the tracer knows.
        (room,) = _operator("::Pad", (tensor, pads), {}, like=(tensor,))
        return room

    return tuple(KeyValue(padded(layer.key), padded(layer.value)) for layer in cache)


def _operator(
    name: str, inputs: Sequence[Tensor], attributes: Mapping[str, int | float], like: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """An operator that torch has not; its outputs have the dtypes and shapes of `like`."""
    outputs = torch.onnx.ops.symbolic_multi_out(
        name,
        inputs,
        dict(attributes),
        dtypes=[tensor.dtype for tensor in like],
        shapes=[tensor.shape for tensor in like],
        version=VERSION if name.startswith(DOMAIN) else None,
    )
    # The tracer thinks they are on the CPU.
    return tuple(output.to(tensor.device) for output, tensor in zip(outputs, like, strict=True))
