"""Interface that graph tracing and quantization need to read the tensors of a checkpoint."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class TensorSource(Protocol):
    """A source of tensors by name."""

    def tensor(self, name: str) -> Tensor:
        """Return the tensor with this name, in the dtype in which it is stored."""
