"""Memory for caches that stays where it is, with the step that reads and writes it.

A GPU is told of a step once: all kernels with all their addresses are recorded (a CUDA graph), and played
back from then on, which takes one call where there were hundreds. So the memory of a cache, of the tokens a
step takes and of the scores it gives must not move, and is kept for the next request of as many rows.

Legend: B rows, K key-value heads, C slots, H head width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import RLock
from typing import Any

from ..bundle.schema import GraphSpec, Manifest
from ..engine.device_tensor import DeviceTensor
from ..engine.devices import Placement
from ..engine.memory import shrink_arena
from ..errors import ResourceError
from .kv_cache import StepBuffers, allocate_cache

MIN_SLOTS = 512  # slots; a picture of 224 pixels, a prompt and the default answer fit
MAX_IDLE = 16  # rooms that wait for the next request; they go where memory is short
# Steps that are recorded: what is recorded stays until the session ends, a megabyte or so each. Rooms beyond
# these take their steps kernel by kernel.
MAX_CAPTURED = 64
NO_CAPTURE = "-1"  # onnxruntime's number (`gpu_graph_id`) of a run that is neither recorded nor played


@dataclass
class BufferPool:
    """The rooms of one session; several threads may take and give."""

    manifest: Manifest
    placement: Placement
    bind: Callable[[], Any]  # a new binding of the step's session
    _idle: list[StepBuffers] = field(default_factory=list)  # the one used last at the end
    _made: int = 0
    _lock: RLock = field(default_factory=RLock)  # what is let go in `take` may give

    def take(self, rows: int, slots: int) -> StepBuffers:
        """A room with so many slots or more, for one batch; raises ResourceError."""
        size = rows, self._rounded(slots)
        with self._lock:
            for room in reversed(self._idle):
                if room.size == size:
                    self._idle.remove(room)
                    return room
            try:
                return self._new(*size)
            except ResourceError:
                if not self._idle:
                    raise
            self.let_go()
            return self._new(*size)

    def let_go(self) -> bool:
        """Give back the memory of rooms that wait; whether there were any."""
        with self._lock:
            some = bool(self._idle)
            self._idle.clear()
            if some:
                shrink_arena(self.placement)
            return some

    def give(self, room: StepBuffers) -> None:
        """Back, for the next batch. What is not given goes when nobody has it any more."""
        with self._lock:
            self._idle.append(room)
            del self._idle[:-MAX_IDLE]

    def _rounded(self, slots: int) -> int:
        """A power of two: few sizes, so that most requests find a room."""
        return min(max(MIN_SLOTS, 1 << (slots - 1).bit_length()), self.manifest.model.context_length)

    def _new(self, rows: int, slots: int) -> StepBuffers:
        facts, place, what = self.manifest.cache, self.placement, f"a step of {rows} rows"
        values = allocate_cache(facts, place, rows, slots)
        input_ids = DeviceTensor.zeros((rows, 1), "int64", place, what)
        past_lengths = DeviceTensor.zeros((rows,), "int64", place, what)
        logits = DeviceTensor.zeros((rows, self.manifest.model.vocab_size), "float32", place, what)
        recording = str(self._made) if self._made < MAX_CAPTURED else NO_CAPTURE
        self._made += 1
        binding, graph = self.bind(), self.manifest.graphs.decode
        _bind(binding, graph, (input_ids, past_lengths, *values), (logits, *values))
        return StepBuffers(values, input_ids, past_lengths, logits, binding, recording)


def _bind(
    binding: Any, graph: GraphSpec, inputs: tuple[DeviceTensor, ...], outputs: tuple[DeviceTensor, ...]
) -> None:
    for spec, tensor in zip(graph.inputs, inputs, strict=True):
        tensor.bind_input(binding, spec.name)
    for spec, tensor in zip(graph.outputs, outputs, strict=True):
        tensor.bind_output(binding, spec.name)
