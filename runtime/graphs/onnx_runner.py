"""The graphs as calls; the cache is bound, never copied into Python.

On a CPU a cache is made for each request and grows; on a GPU it has all its slots from the start, in a room
that waits for the next request (rooms.py). Image features stay where they are made, too.

Legend: B batch, P pictures, M masks, S image side in pixels, I tokens an image, N image tokens of a row, T
prompt tokens of the longest row, D width, V vocabulary.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle.schema import GraphSpec, Manifest
from ..cancellation import Cancellation, Cancelled
from ..engine.bundle_sessions import open_sessions, uses_cuda_graph
from ..engine.cuda_provider import device_lock
from ..engine.device_tensor import DeviceTensor
from ..engine.devices import Placement
from ..engine.gather_features import GATHER, open_gather
from ..engine.graph_executor import Executor
from ..engine.memory import shrink_arena
from ..engine.shared_weights import SharedWeights
from ..errors import BundleError, ResourceError
from .buffer_pool import BufferPool
from .kv_cache import Cache, StepBuffers, allocate_cache
from .model_runner import Array, Ids, ImageFeatures

# Slots that a cache in place has to spare behind a prompt, and gets more of when they are used up. Attention
# reads every slot there is, so there are not all that a request allows.
SPARE_SLOTS = 128

NO_MASK_DECODER = "the bundle has no mask decoder; export the checkpoint with --mask-decoder"


# Pictures that a GPU looks at together; on a CPU more than one would cost memory and gain no time.
TOGETHER = 8


@dataclass(frozen=True)
class OnnxModelRunner:
    """Open sessions of one bundle."""

    prepared: Path | None  # folder of the prepared graphs in use; None: the bundle's graphs
    manifest: Manifest
    placement: Placement
    vision: Any
    prefill_session: Any
    decode_session: Any
    mask_session: Any | None  # on the CPU; None: the bundle has no mask decoder
    weights: SharedWeights | None = None  # that two sessions read
    rooms: BufferPool | None = None  # None: a cache is made for each request

    @classmethod
    def open(
        cls,
        folder: Path,
        manifest: Manifest,
        placement: Placement,
        *,
        prepared: Path | None = None,
    ) -> OnnxModelRunner:
        """Open the sessions; raises what `open_session` raises.

        Where prefill and decode are the same graph one session serves both, and holds its weights once.
        """
        graphs = manifest.graphs
        sessions, weights = open_sessions(folder, graphs.different, manifest, placement, prepared)
        decode = sessions[graphs.decode.digest]
        return cls(
            prepared,
            manifest,
            placement,
            vision=sessions[graphs.vision_encoder.digest],
            prefill_session=sessions[graphs.prefill.digest],
            decode_session=decode,
            mask_session=None if graphs.mask_decoder is None else sessions[graphs.mask_decoder.digest],
            weights=weights,
            rooms=BufferPool(manifest, placement, decode.io_binding)
            if uses_cuda_graph(manifest, placement)
            else None,
        )

    def encode_image(self, pixel_values: Array, cancel: Cancellation) -> DeviceTensor:
        """Look at pictures: float32[P, 3, S, S] -> float32[P, I, D]."""
        graph, facts = self.manifest.graphs.vision_encoder, self.manifest
        shape = (len(pixel_values), facts.image.tokens, facts.model.hidden_size)
        features = self._features(shape)
        together = 1 if self.placement.device == "cpu" else TOGETHER
        for start in range(0, len(pixel_values), together):
            pixels = pixel_values[start : start + together]
            seen = features.part(start * shape[1] * shape[2], (len(pixels), *shape[1:]))
            fed, written = {"pixel_values": pixels}, {"image_features": seen}
            self._executor.run(self.vision, graph, fed, {}, cancel, written=written, give_back=True)
        return features

    def arrange(self, features: DeviceTensor, pictures: Ids, cancel: Cancellation) -> DeviceTensor:
        """Each row's pictures behind each other.

        Args:
            features: float32[P, I, D].
            pictures: int64[B, k], which of them a row shows, in reading order.
            cancel: stops the run from another thread.

        Returns:
            float32[B, k * I, D]; where each picture is shown once and in order, the memory it is in.
        """
        rows, shown = pictures.shape
        count, tokens, width = features.shape
        arranged = (rows, shown * tokens, width)
        if np.array_equal(pictures.reshape(-1), np.arange(count)):
            return features.part(0, arranged)
        out = self._features(arranged)
        fed, bound, written = {"pictures": pictures}, {"features": features}, {"rows": out}
        self._executor.run(self._gather, GATHER, fed, bound, cancel, written=written)
        return out

    def _features(self, shape: tuple[int, ...]) -> DeviceTensor:
        """Memory for image features, float32; rooms that wait go for it."""
        try:
            return DeviceTensor.empty(shape, "float32", self.placement, "image features")
        except ResourceError:
            if self.rooms is None or not self.rooms.let_go():
                raise
        return DeviceTensor.empty(shape, "float32", self.placement, "image features")

    @cached_property
    def _gather(self) -> Any:
        return open_gather(self.placement)

    def prefill(
        self,
        input_ids: Ids,
        image_features: ImageFeatures,
        text_lengths: Ids,
        slots: int,
        cancel: Cancellation,
    ) -> tuple[Array, Cache]:
        """Read the prompts of a batch.

        Args:
            input_ids: int64[B, T], padded on the right.
            image_features: float32[B, N, D], an array or what `arrange` gave.
            text_lengths: int64[B], real tokens of each row.
            slots: the most that any row may use, N + T or more; a cache in place has no more, and at first
                no more than it soon needs.
            cancel: stops the run from another thread.

        Returns:
            logits float32[B, V] behind each row's last token, and the cache.
        """
        fed: dict[str, NDArray[Any]] = {"input_ids": input_ids, "text_lengths": text_lengths}
        bound: dict[str, Any] = {}
        if isinstance(image_features, DeviceTensor):
            bound["image_features"], seen = image_features, image_features.shape[1]
        else:
            fed["image_features"], seen = image_features, image_features.shape[1]
        graph, nothing = self.manifest.graphs.prefill, np.zeros_like(text_lengths)
        if not self._in_place:
            logits, *new = self._executor.run(self.prefill_session, graph, fed, bound, cancel, give_back=True)
            return logits.numpy(), Cache(tuple(new), seen + text_lengths)
        if self.rooms is not None:
            room = self.rooms.take(len(input_ids), slots)
            empty = Cache(room.values, nothing, room)
        else:
            taken = seen + input_ids.shape[1]
            room_for = len(input_ids), min(slots, taken + SPARE_SLOTS)
            empty = Cache(allocate_cache(self.manifest.cache, self.placement, *room_for), nothing)
        try:
            session = self.prefill_session
            logits, values = self._write(session, graph, fed, empty, cancel, bound=bound, shrink_arena=True)
        except Cancelled:
            self.release(empty, sound=True)
            raise
        return logits.numpy(), replace(empty, values=values, lengths=seen + text_lengths)

    def decode(self, input_ids: Ids, cache: Cache, cancel: Cancellation) -> tuple[Array, Cache]:
        """Add one token to each row: int64[B, 1] -> logits float32[B, V] and the cache with it.

        A cache that is updated in place is the same memory before and after, until a row has used its last
        slot; then it moves to a larger one. The one handed in still holds
        what it held, since each step writes its slot before it reads it: one may go back and decode again
        from there, but not go on from both.
        """
        if cache.room is not None:
            return self._step(input_ids, cache, cache.room, cancel), cache.grown(cache.values)
        graph, rows = self.manifest.graphs.decode, len(input_ids)
        fed: dict[str, NDArray[Any]] = {"input_ids": input_ids}
        if not self._in_place:
            fed["past_lengths"] = cache.lengths
            bound = cache.named("past_key_values")
            logits, *new = self._executor.run(self.decode_session, graph, fed, bound, cancel)
            return logits.numpy(), cache.grown(tuple(new))
        cache = self._with_room(cache)
        session, wide = self.decode_session, self.manifest.precision.wide_batch
        if wide is not None and rows >= wide:
            session, graph = self.prefill_session, self.manifest.graphs.prefill
        if any(spec.name == "image_features" for spec in graph.inputs):  # it is prefill's graph
            fed["image_features"] = np.zeros((rows, 0, self.manifest.model.hidden_size), dtype=np.float32)
            fed["text_lengths"] = np.ones(rows, dtype=np.int64)
        logits, values = self._write(session, graph, fed, cache, cancel)
        return logits.numpy(), cache.grown(values)

    def _step(self, input_ids: Ids, cache: Cache, room: StepBuffers, cancel: Cancellation) -> Array:
        """A step in the cache's room: logits float32[B, V]."""
        room.feed(input_ids, cache.lengths)
        graph = self.manifest.graphs.decode
        self._executor.step(self.decode_session, graph, room.binding, room.recording, cancel)
        return room.logits.numpy()

    def release(self, cache: Cache, *, sound: bool) -> None:
        """Take a cache back whose request has ended.

        Args:
            cache: what `prefill` gave, or a later one of the same request.
            sound: whether all that was written into it were numbers; otherwise its memory is let go.
        """
        if self.rooms is not None and cache.room is not None and sound:
            self.rooms.give(cache.room)

    def decode_masks(self, codes: Ids, cancel: Cancellation) -> Array:
        """Turn `<seg>` codes into maps: int64[M, 16] -> float32[M, 64, 64], positive inside a mask.

        Raises:
            BundleError: there is no mask decoder in the bundle.
        """
        graph = self.manifest.graphs.mask_decoder
        if graph is None:
            raise BundleError(NO_MASK_DECODER)
        masks: Array = self._executor.run(self.mask_session, graph, {"codes": codes}, {}, cancel)[0].numpy()
        return masks

    def _with_room(self, cache: Cache) -> Cache:
        """A cache in which every row has a free slot: the one given, or a larger copy."""
        rows, _, slots, _ = cache.values[0].shape
        if cache.lengths.max() < slots:
            return cache
        facts, place = self.manifest.cache, self.placement
        return replace(cache, values=allocate_cache(facts, place, rows, slots + SPARE_SLOTS, cache.values))

    def _write(
        self,
        session: Any,
        graph: GraphSpec,
        fed: Mapping[str, NDArray[Any]],
        cache: Cache,
        cancel: Cancellation,
        *,
        bound: Mapping[str, Any] = MappingProxyType({}),
        shrink_arena: bool = False,
    ) -> tuple[Any, tuple[Any, ...]]:
        """Run a graph that writes into the cache it reads: logits, and the cache's values."""
        fed = {**fed, "past_lengths": cache.lengths}
        bound, written = {**bound, **cache.named("past_key_values")}, cache.named("present")
        logits, *_ = self._executor.run(
            session, graph, fed, bound, cancel, written=written, give_back=shrink_arena
        )
        # Not the handles that the engine gives back: these keep its session, weights and all, in memory.
        return logits, cache.values

    def __del__(self) -> None:
        """Let go of sessions and weights where nothing is recorded meanwhile, and of their memory."""
        with suppress(Exception), device_lock(self.placement.device):  # never whole, or a GPU that has failed
            placement = self.placement
            vars(self).clear()
            if not sys.is_finalizing():  # the system takes everything then
                shrink_arena(placement)

    @property
    def _in_place(self) -> bool:
        return self.manifest.cache.update == "in_place"

    @cached_property
    def _executor(self) -> Executor:
        return Executor(self.placement)
