"""A pool of memory for KV caches and decode steps on a GPU.

On a GPU a decode step is captured as a CUDA graph: all kernels with the addresses that they read and write.
Later steps replay the CUDA graph, with one call in place of hundreds. So the memory of the cache, of a step's
tokens and of its logits must keep its address. After a batch this memory is kept for the next batch of the
same size.

Shapes: docs/notation.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import RLock

from ..bundle.schema import GraphSpec, Manifest
from ..engine.device_tensor import DeviceTensor
from ..engine.devices import Placement
from ..engine.memory import shrink_arena
from ..engine.ort import IoBinding
from ..errors import ResourceError
from .kv_cache import StepBuffers, allocate_cache

MIN_SLOTS = 512  # fits a 224-pixel image, a prompt and an answer of the default length
MAX_IDLE = 16  # number of buffers kept for later batches; if memory is short, they are freed
# CUDA graphs per session. Each CUDA graph takes about a megabyte until the session is closed. With buffers
# beyond this number, steps are neither captured nor replayed, and run kernel by kernel.
MAX_CAPTURED = 64
NO_CAPTURE = "-1"  # onnxruntime's `gpu_graph_id` of a run that is neither captured nor replayed


@dataclass
class BufferPool:
    """The step buffers of one decode session. Several threads may use the pool."""

    manifest: Manifest
    placement: Placement
    new_binding: Callable[[], IoBinding]  # returns a new binding of the decode session
    _idle: list[StepBuffers] = field(default_factory=list)  # the most recently used buffers are last
    _created: int = 0
    # Reentrant: in `acquire` the garbage collector may end another request, which then calls `release`.
    _lock: RLock = field(default_factory=RLock)

    def acquire(self, rows: int, slots: int) -> StepBuffers:
        """Return buffers of at least `slots` slots for the exclusive use of one batch.

        Idle buffers of a suitable size are reused. If memory is short, other idle buffers are freed.

        Args:
            rows: number of rows of the batch, B.
            slots: the largest number of slots that a row will use.

        Raises:
            ResourceError: out of memory.
        """
        size = rows, self._round_up(slots)
        with self._lock:
            for buffers in reversed(self._idle):
                if buffers.size == size:
                    self._idle.remove(buffers)
                    return buffers
            try:
                return self._create(*size)
            except ResourceError:
                if not self._idle:
                    raise
            self.evict_idle()
            return self._create(*size)

    def release(self, buffers: StepBuffers) -> None:
        """Return buffers to the pool for reuse.

        All values in the buffers must be finite. The pool keeps the MAX_IDLE most recently used buffers.
        Buffers that are not returned are freed when their last reference is deleted.
        """
        with self._lock:
            self._idle.append(buffers)
            del self._idle[:-MAX_IDLE]

    def evict_idle(self) -> bool:
        """Free the memory of all idle buffers; return whether there were idle buffers."""
        with self._lock:
            had_idle = bool(self._idle)
            self._idle.clear()
            if had_idle:
                shrink_arena(self.placement)
            return had_idle

    @property
    def idle(self) -> tuple[StepBuffers, ...]:
        """Buffers that no batch uses; the most recently used are last."""
        with self._lock:
            return tuple(self._idle)

    def _round_up(self, slots: int) -> int:
        """Return `slots` rounded up to a power of two, at most the context length.

        The number of different sizes is then small, and most batches can reuse buffers."""
        return min(max(MIN_SLOTS, 1 << (slots - 1).bit_length()), self.manifest.model.context_length)

    def _create(self, rows: int, slots: int) -> StepBuffers:
        placement, subject = self.placement, f"a decode step of {rows} rows"
        values = allocate_cache(self.manifest.cache, placement, rows, slots)
        input_ids = DeviceTensor.zeros((rows, 1), "int64", placement, subject)
        past_lengths = DeviceTensor.zeros((rows,), "int64", placement, subject)
        logits = DeviceTensor.zeros((rows, self.manifest.model.vocab_size), "float32", placement, subject)
        graph_id = str(self._created) if self._created < MAX_CAPTURED else NO_CAPTURE
        self._created += 1
        binding, graph = self.new_binding(), self.manifest.graphs.decode
        _bind(binding, graph, (input_ids, past_lengths, *values), (logits, *values))
        return StepBuffers(values, input_ids, past_lengths, logits, binding, graph_id)


def _bind(
    binding: IoBinding,
    graph: GraphSpec,
    inputs: tuple[DeviceTensor, ...],
    outputs: tuple[DeviceTensor, ...],
) -> None:
    for spec, tensor in zip(graph.inputs, inputs, strict=True):
        tensor.bind_input(binding, spec.name)
    for spec, tensor in zip(graph.outputs, outputs, strict=True):
        tensor.bind_output(binding, spec.name)
