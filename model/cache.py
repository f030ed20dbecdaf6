"""The key-value cache: keys and values of earlier tokens.

The cache is an argument and a result of every decode step.

A row of a batch uses the slots [0, length) of its cache, and a token's slot equals the token's position. The
remaining slots are padding, which the mask hides. The rows of a batch may have different lengths, so the new
token of a row is written to the slot whose number is the length of that row. The cache of a row is therefore
the same whether the row is computed alone or in a batch.

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
    """Return a cache in which the key and value of one new token follow the used slots of each row.

    Args:
        past: keys and values, float[B, K, P, H] each.
        new: key and value of the new token of every row, float[B, K, 1, H] each.
        lengths: int64[B], slots that each row uses, at most P.

    Returns:
        Keys and values, float[B, K, P + 1, H] each.
    """
    return KeyValue(_write(past.key, new.key, lengths), _write(past.value, new.value, lengths))


def _write(past: Tensor, new: Tensor, lengths: Tensor) -> Tensor:
    longer = torch.cat([past, new], dim=2)  # rows of length P are complete; the others are written below
    slot = lengths[:, None, None, None].expand_as(new)
    return longer.scatter(2, slot, new)
