"""Interface of what provides checkpoint tensors by name."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class TensorSource(Protocol):
    """Where the tensors to encode come from: a checkpoint."""

    def tensor(self, name: str) -> Tensor:
        """One tensor in the dtype it is stored in."""
