"""Interface of checkpoints, as graph tracing and quantization need it."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class TensorSource(Protocol):
    """A source of tensors by name."""

    def tensor(self, name: str) -> Tensor:
        """Return a tensor in the dtype in which it is stored."""
