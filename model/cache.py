"""The key-value cache: keys and values of earlier tokens, an argument and a result of every decode step.

A row of a batch uses the slots [0, length) of its cache, and a token's slot equals its position. Slots from
the length on are padding that the mask hides. The rows of a batch may have different lengths, so each row's
new token is written at that row's length. A row's cache is thus the same whether it is computed alone or in a
batch.

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
    """Write the key and value of one new token after the slots that each row uses.

    Args:
        past: float[B, K, P, H] each.
        new: float[B, K, 1, H] each.
        lengths: int64[B], slots that each row uses, at most P.

    Returns:
        float[B, K, P + 1, H] each.
    """
    return KeyValue(_write(past.key, new.key, lengths), _write(past.value, new.value, lengths))


def _write(past: Tensor, new: Tensor, lengths: Tensor) -> Tensor:
    longer = torch.cat([past, new], dim=2)  # already correct for rows whose length is P
    slot = lengths[:, None, None, None].expand_as(new)
    return longer.scatter(2, slot, new)
