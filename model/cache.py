"""The key-value cache: keys and values of earlier tokens.

The cache is an argument and a result of every decode step.

A row of a batch uses the slots [0, length) of its cache, and a token's slot equals the token's position. The
remaining slots are padding, which the mask hides. The rows of a batch may have different lengths, so the new
tokens of a row are written to the slots from the length of that row on. The cache of a row is therefore the
same whether the row is computed alone or in a batch.

Shapes: docs/notation.md.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class KeyValue(NamedTuple):
    """The cache of one layer."""

    key: Tensor  # float[B, K, P, H], already rotated
    value: Tensor  # float[B, K, P, H]


Cache = tuple[KeyValue, ...]  # one entry per layer


def append(past: KeyValue, new: KeyValue, lengths: Tensor) -> KeyValue:
    """Return a cache in which the keys and values of T new tokens follow the used slots of each row.

    Args:
        past: keys and values, float[B, K, P, H] each.
        new: keys and values of the new tokens of every row, float[B, K, T, H] each.
        lengths: int64[B], slots that each row uses, at most P.

    Returns:
        Keys and values, float[B, K, P + T, H] each.
    """
    slots = lengths[:, None] + torch.arange(new.key.shape[2], device=lengths.device)  # [B, T]
    return KeyValue(_write(past.key, new.key, slots), _write(past.value, new.value, slots))


def _write(past: Tensor, new: Tensor, slots: Tensor) -> Tensor:
    longer = torch.cat([past, new], dim=2)  # rows of length P are complete; the others are written below
    return longer.scatter(2, slots[:, None, :, None].expand_as(new), new)
