"""The KV cache: tensors that stay on the device and are never copied to Python.

Shapes: docs/notation.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..bundle.schema import CacheFacts
from ..engine.device_tensor import DeviceTensor
from ..engine.devices import Placement
from ..engine.ort import IoBinding

# For a cache that is updated in place: the number of free slots after the prompt, and the number of slots
# that are added when the free slots are used up. Attention reads free slots, too, so a cache does not start
# with all slots of a request.
CACHE_HEADROOM = 128


@dataclass(frozen=True)
class StepBuffers:
    """Memory of a batch's KV cache and decode steps, and the decode session's binding to this memory."""

    values: tuple[DeviceTensor, ...]  # [B, K, C, H], half precision: key of layer 0, value of layer 0, ...
    input_ids: DeviceTensor  # int64[B, 1]
    past_lengths: DeviceTensor  # int64[B]
    logits: DeviceTensor  # float32[B, V]
    binding: IoBinding
    graph_id: str  # id of the CUDA graph that reads and writes this memory

    @property
    def size(self) -> tuple[int, int]:
        """Number of sequences B and number of slots C."""
        rows, _, slots, _ = self.values[0].shape
        return rows, slots

    def write_inputs(self, input_ids: NDArray[np.int64], past_lengths: NDArray[np.int64]) -> None:
        """Copy the inputs of the next decode step into the buffers.

        Args:
            input_ids: int64[B, 1].
            past_lengths: int64[B].

        Raises:
            ValueError: a row has no free slot.
        """
        if past_lengths.max() >= self.size[1]:
            raise ValueError(f"a row has used all of its {self.size[1]} slots")
        self.input_ids.copy_from(input_ids)
        self.past_lengths.copy_from(past_lengths)


@dataclass(frozen=True)
class Cache:
    """Keys and values of all tokens that the model has read.

    If the cache grows, a decode step returns new tensors. If the cache is updated in place, a decode step
    writes into the tensors of this object. Row b uses the slots [0, lengths[b]). Later slots are masked out,
    but they must hold finite values, because 0 * NaN is NaN.
    """

    # Key of layer 0, value of layer 0, ...: [B, K, P, H], or [B, C, K * H] (CacheFacts.layout)
    values: tuple[DeviceTensor, ...]
    lengths: NDArray[np.int64]  # [B], used slots of each row
    step_buffers: StepBuffers | None = None  # None: the memory does not belong to a pool

    def advance(self, values: tuple[DeviceTensor, ...], tokens: int = 1) -> Cache:
        """Return a cache with the new values, in which every row has `tokens` more tokens."""
        return replace(self, values=values, lengths=self.lengths + tokens)

    def copy(self) -> Cache:
        """Return a copy of a float32 cache. The copy is not in memory that a session allocated.

        As long as an output of a session exists, onnxruntime keeps all memory of the session, with its
        weights.
        """
        values = tuple(
            DeviceTensor.from_numpy(value.numpy(), value.dtype, value.placement, "a copy of a cache")
            for value in self.values
        )
        return replace(self, values=values)

    def by_name(self, prefix: str) -> dict[str, DeviceTensor]:
        """Return the values by their names in the graphs: `{prefix}.0.key`, `{prefix}.0.value`, ..."""
        kinds = ("key", "value")
        return {f"{prefix}.{index // 2}.{kinds[index % 2]}": value for index, value in enumerate(self.values)}


def allocate_cache(
    facts: CacheFacts,
    placement: Placement,
    rows: int,
    slots: int,
    previous: Sequence[DeviceTensor] = (),
) -> tuple[DeviceTensor, ...]:
    """Allocate a cache that is updated in place, in the shape that `facts` gives each key and value.

    Args:
        facts: layers, heads and dtype.
        placement: device of the cache.
        rows: number of rows, B.
        slots: number of slots, C.
        previous: values of a smaller cache, which are copied to the first slots. The other slots are zeros.

    Returns:
        Key and value of layer 0, key and value of layer 1, and so on.

    Raises:
        ResourceError: out of memory.
    """
    subject, shape = f"a cache of {slots} slots for {rows} rows", facts.shape(rows, slots)

    def allocate_value(index: int) -> DeviceTensor:
        if not previous:
            return DeviceTensor.zeros(shape, facts.dtype, placement, subject)
        old = previous[index].to_numpy_view()
        content = np.zeros(shape, old.dtype)
        content[(slice(None),) * facts.slot_axis + (slice(old.shape[facts.slot_axis]),)] = old
        return DeviceTensor.from_numpy(content, facts.dtype, placement, subject)

    return tuple(allocate_value(index) for index in range(2 * facts.layers))


def ensure_free_slots(cache: Cache, facts: CacheFacts, placement: Placement, tokens: int = 1) -> Cache:
    """Return `cache` if every row has `tokens` free slots, otherwise a copy of it with more slots.

    Raises:
        ResourceError: out of memory.
    """
    shape = cache.values[0].shape
    rows, slots = shape[0], shape[facts.slot_axis]
    if cache.lengths.max() + tokens <= slots:
        return cache
    values = allocate_cache(facts, placement, rows, slots + tokens - 1 + CACHE_HEADROOM, cache.values)
    return replace(cache, values=values)


def split_heads(value: DeviceTensor, facts: CacheFacts) -> NDArray[np.float32]:
    """Return a copy of a key or value of a cache as an array [B, K, C, H], whatever its layout."""
    array: NDArray[np.float32] = value.numpy()
    if facts.layout == "heads_slots":
        return array
    rows, slots, _ = array.shape
    split: NDArray[np.float32] = array.reshape(rows, slots, facts.heads, facts.head_dim).swapaxes(1, 2)
    return split
