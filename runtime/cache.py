"""The key-value cache on the runtime's side: handles to tensors that stay where the engine put them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Cache:
    """What earlier tokens left behind.

    The values are bound `OrtValue`s: a step reads them and makes new ones, or writes into them, and no byte
    of them passes through Python. Row b owns the slots [0, lengths[b]); what lies behind is padding, and
    finite: attention gives it no weight, but nothing times NaN is NaN.
    """

    values: tuple[Any, ...]  # key and value of each layer in turn, float32[B, K, P, H]
    lengths: NDArray[np.int64]  # [B]

    def grown(self, values: tuple[Any, ...]) -> Cache:
        """The cache after one more token in every row."""
        return Cache(values, self.lengths + 1)
