"""The key-value cache on the runtime's side: handles to tensors that stay where the engine put them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle.schema import CacheFacts
from ..engine.device_tensor import DeviceTensor
from ..engine.devices import Placement


@dataclass(frozen=True)
class StepBuffers:
    """Memory of one batch's cache and of its steps."""

    values: tuple[DeviceTensor, ...]  # key and value of each layer in turn, half[B, K, C, H]
    input_ids: DeviceTensor  # int64[B, 1]
    past_lengths: DeviceTensor  # int64[B]
    logits: DeviceTensor  # float32[B, V]
    binding: Any  # of the step's session, to all of these
    recording: str  # which of the session's

    @property
    def size(self) -> tuple[int, int]:
        """Rows and slots."""
        rows, _, slots, _ = self.values[0].shape
        return rows, slots

    def feed(self, input_ids: NDArray[np.int64], past_lengths: NDArray[np.int64]) -> None:
        """Say what the next step is of; raises ValueError where a row has no free slot."""
        if past_lengths.max() >= self.size[1]:
            raise ValueError(f"a row has used all of its {self.size[1]} slots")
        self.input_ids.put(input_ids)
        self.past_lengths.put(past_lengths)


@dataclass(frozen=True)
class Cache:
    """What earlier tokens left behind.

    A step reads the values and makes new ones, or writes into them, and no byte of them passes through
    Python. Row b owns the slots [0, lengths[b]); what lies behind is padding, and finite: attention gives it
    no weight, but nothing times NaN is NaN.
    """

    values: tuple[Any, ...]  # key and value of each layer in turn, float[B, K, P, H]: OrtValues, or Tensors
    lengths: NDArray[np.int64]  # [B]
    room: StepBuffers | None = None  # where the values are, if they stay there behind the request

    def grown(self, values: tuple[Any, ...]) -> Cache:
        """The cache after one more token in every row."""
        return replace(self, values=values, lengths=self.lengths + 1)

    def named(self, prefix: str) -> dict[str, Any]:
        """The values under the names that a graph has for them."""
        kinds = ("key", "value")
        return {f"{prefix}.{index // 2}.{kinds[index % 2]}": value for index, value in enumerate(self.values)}


def allocate_cache(
    facts: CacheFacts, placement: Placement, rows: int, slots: int, held: Sequence[DeviceTensor] = ()
) -> tuple[DeviceTensor, ...]:
    """Memory for a cache that is updated in place, float[B, K, C, H] for each key and value.

    It begins with the slots of the values `held`, of a smaller cache; the rest are zeros: a free slot has no
    weight in what is read, but nothing times NaN would be NaN.

    Raises:
        ResourceError: there is not so much.
    """
    what, shape = f"a cache of {slots} slots for {rows} rows", (rows, facts.heads, slots, facts.head_dim)

    def value(index: int) -> DeviceTensor:
        if not held:
            return DeviceTensor.zeros(shape, facts.dtype, placement, what)
        before = held[index].held()
        content = np.zeros(shape, before.dtype)
        content[:, :, : before.shape[2]] = before
        return DeviceTensor.holding(content, facts.dtype, placement, what)

    return tuple(value(index) for index in range(2 * facts.layers))
