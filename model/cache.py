"""The key-value cache: what earlier tokens left behind, an argument and a result of every step.

A row of a batch owns the slots [0, length) of its cache; slot and position are the same number. What lies
behind is padding that no query may see. Rows of one batch may have different lengths, so a new token is
written at each row's own length: a row's cache is the same whether it is computed alone or in a batch.

Legend: B batch, K key-value heads, P slots before the step, H head width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class KeyValue(NamedTuple):
    """One layer's cache."""

    key: Tensor  # float[B, K, P, H], rotated already
    value: Tensor  # float[B, K, P, H]


Cache = tuple[KeyValue, ...]  # one entry a layer


def append(past: KeyValue, new: KeyValue, lengths: Tensor) -> KeyValue:
    """Write one token's key and value behind what each row holds.

    Args:
        past: float[B, K, P, H] each.
        new: float[B, K, 1, H] each.
        lengths: int64[B], slots of each row that are in use, at most P.

    Returns:
        float[B, K, P + 1, H] each.
    """
    return KeyValue(_write(past.key, new.key, lengths), _write(past.value, new.value, lengths))


def _write(past: Tensor, new: Tensor, lengths: Tensor) -> Tensor:
    grown = torch.cat([past, new], dim=2)  # right as it is for rows that fill their cache
    slot = lengths[:, None, None, None].expand_as(new)
    return grown.scatter(2, slot, new)
