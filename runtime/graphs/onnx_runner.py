"""Run the graphs of a bundle with onnxruntime; KV cache and image features stay on the device.

On a CPU the cache is allocated per batch. On a GPU a cache that is updated in place comes from a pool
(buffer_pool.py), and is allocated with all slots that the batch will use.

Shapes: docs/notation.md.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
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
from ..engine.mapped_files import release_pages
from ..engine.memory import shrink_arena
from ..engine.ort import InferenceSession, OrtValue, Session
from ..engine.session import prepared_weights_name
from ..engine.shared_weights import SharedWeights
from ..errors import BundleError, NumericsError, ResourceError
from .buffer_pool import BufferPool
from .kv_cache import CACHE_HEADROOM, Cache, StepBuffers, allocate_cache, ensure_free_slots
from .model_runner import Array, Ids, ImageFeatures

VISION_BATCH = 8  # images per run on a GPU; on a CPU, 1: more images take memory and save no time
NO_MASK_DECODER = "the bundle has no mask decoder; export the checkpoint with --mask-decoder"


@dataclass(frozen=True)
class OnnxModelRunner:
    """The open sessions of one bundle; implements `ModelRunner`, which documents shapes and errors."""

    prepared: Path | None  # folder of the prepared graphs in use; None: the bundle's graphs
    manifest: Manifest
    placement: Placement
    vision_session: Session | None  # None: the runner encodes no images
    prefill_session: Session
    decode_session: Session
    mask_session: Session | None  # on the CPU; None: the bundle has no mask decoder
    weights: SharedWeights | None = None  # weights that two sessions read
    buffer_pool: BufferPool | None = None  # None: a cache is allocated per batch

    @classmethod
    def open(
        cls,
        folder: Path,
        manifest: Manifest,
        placement: Placement,
        *,
        prepared: Path | None = None,
        on_opening: Callable[[], object] = lambda: None,
    ) -> OnnxModelRunner:
        """Return a runner with open sessions. If prefill and decode are the same graph, they share a session.

        Args:
            folder: folder of the bundle.
            manifest: manifest of the bundle.
            placement: device of the sessions.
            prepared: folder of prepared graphs (prepared_graphs.py); if it is set, they are opened in place
                of the bundle's graphs.
            on_opening: see `open_sessions`.

        Raises what `open_sessions` raises.
        """
        graphs = manifest.graphs
        sessions, weights = open_sessions(folder, graphs.distinct, manifest, placement, prepared, on_opening)
        decode = sessions[graphs.decode.digest]
        return cls(
            prepared,
            manifest,
            placement,
            vision_session=sessions[graphs.vision_encoder.digest],
            prefill_session=sessions[graphs.prefill.digest],
            decode_session=decode,
            mask_session=None if graphs.mask_decoder is None else sessions[graphs.mask_decoder.digest],
            weights=weights,
            buffer_pool=BufferPool(manifest, placement, decode.io_binding)
            if uses_cuda_graph(manifest, placement)
            else None,
        )

    def encode_image(self, pixel_values: Array, cancel: Cancellation) -> DeviceTensor:
        """Return the features of images: float32[M, 3, S, S] -> float32[M, I, D]."""
        if self.vision_session is None:
            raise ValueError("the vision encoder is not open")
        graph, facts = self.manifest.graphs.vision_encoder, self.manifest
        tokens, width = facts.image.tokens, facts.model.hidden_size
        features = self._allocate_features((len(pixel_values), tokens, width))
        batch = 1 if self.placement.device == "cpu" else VISION_BATCH
        for start in range(0, len(pixel_values), batch):
            pixels = pixel_values[start : start + batch]
            part = features.view(start * tokens * width, (len(pixels), tokens, width))
            feeds, outputs = {"pixel_values": pixels}, {"image_features": part}
            self._executor.run(
                self.vision_session, graph, feeds, {}, cancel, outputs=outputs, shrink_arena=True
            )
        self._release_weights(graph)
        # A prefill that quantises activations to 8 bits turns NaN into ordinary numbers. No precision for
        # GPUs does so: there NaN shows in the logits.
        if self.placement.device == "cpu" and not np.isfinite(features.to_numpy_view()).all():
            raise NumericsError(
                f"{graph.file}: the image features are NaN or infinite; run `paligemma-onnx verify`, or use "
                "precision fp32"
            )
        return features

    def gather_image_features(
        self, features: ImageFeatures, images: Ids, cancel: Cancellation
    ) -> DeviceTensor:
        """Return each row's image features: float32[M, I, D], int64[B, N / I] -> float32[B, N, D]."""
        if not isinstance(features, DeviceTensor):
            features = DeviceTensor.from_numpy(features, "float32", self.placement, "image features")
        rows, images_per_row = images.shape
        count, tokens, width = features.shape
        shape = (rows, images_per_row * tokens, width)
        if np.array_equal(images.reshape(-1), np.arange(count)):
            return features.view(0, shape)
        gathered = self._allocate_features(shape)
        feeds, inputs, outputs = {"pictures": images}, {"features": features}, {"rows": gathered}
        self._executor.run(self._gather_session, GATHER, feeds, inputs, cancel, outputs=outputs)
        return gathered

    def _allocate_features(self, shape: tuple[int, ...]) -> DeviceTensor:
        """Allocate a float32 tensor for image features. If memory is short, free idle buffers of the pool."""
        try:
            return DeviceTensor.empty(shape, "float32", self.placement, "image features")
        except ResourceError:
            if self.buffer_pool is None or not self.buffer_pool.evict_idle():
                raise
        return DeviceTensor.empty(shape, "float32", self.placement, "image features")

    @cached_property
    def _gather_session(self) -> InferenceSession:
        return open_gather(self.placement)

    def prefill(
        self,
        input_ids: Ids,
        image_features: ImageFeatures,
        text_lengths: Ids,
        slots: int,
        cancel: Cancellation,
    ) -> tuple[Array, Cache]:
        """Run the prompts of a batch; return logits float32[B, V] of each row's last token, and the cache.

        A cache that is updated in place gets at least `slots` slots if there is a pool. Without a pool it
        gets CACHE_HEADROOM slots more than the prompt needs, but at most `slots`.
        """
        graph, image_tokens = self.manifest.graphs.prefill, image_features.shape[1]
        feeds: dict[str, NDArray[Any]] = {"input_ids": input_ids, "text_lengths": text_lengths}
        inputs: dict[str, DeviceTensor] = {}
        if isinstance(image_features, DeviceTensor):
            inputs["image_features"] = image_features
        else:
            feeds["image_features"] = image_features
        lengths = image_tokens + text_lengths
        if not self._in_place:
            first, *values = self._executor.run(
                self.prefill_session, graph, feeds, inputs, cancel, shrink_arena=True
            )
            self._release_weights(graph)
            return first.numpy(), Cache(self._to_tensors(values), lengths)
        empty = self._empty_cache(len(input_ids), image_tokens + input_ids.shape[1], slots)
        try:
            logits = self._run_in_place(
                self.prefill_session, graph, feeds, empty, cancel, inputs=inputs, shrink_arena=True
            )
        except Cancelled:
            self.release(empty, reusable=True)
            raise
        self._release_weights(graph)
        return logits, replace(empty, lengths=lengths)

    def _release_weights(self, graph: GraphSpec) -> None:
        """If memory is to be saved, release the mapped weights of a graph that decode steps do not read."""
        shared = graph.digest == self.manifest.graphs.decode.digest
        if self.placement.low_memory and self.prepared is not None and not shared:
            release_pages([self.prepared / prepared_weights_name(graph)])

    def _empty_cache(self, rows: int, used: int, slots: int) -> Cache:
        """Return an empty cache that is updated in place. `used` is the number of slots of the prompt."""
        lengths = np.zeros(rows, np.int64)
        if self.buffer_pool is not None:
            buffers = self.buffer_pool.acquire(rows, slots)
            return Cache(buffers.values, lengths, buffers)
        slots = min(slots, used + CACHE_HEADROOM)
        return Cache(allocate_cache(self.manifest.cache, self.placement, rows, slots), lengths)

    def decode(self, input_ids: Ids, cache: Cache, cancel: Cancellation) -> tuple[Array, Cache]:
        """Run one decode step: int64[B, T] -> logits float32[B * T, V], and the cache with the new tokens.

        A cache that is updated in place keeps its memory until a row has used its last slot. Then the cache
        moves to larger memory. The argument `cache` stays valid after the call, because each step writes
        slots before it reads them. So decoding may continue from `cache` or from the returned cache, but
        not from both.
        """
        if cache.step_buffers is not None:
            return self._step(input_ids, cache, cache.step_buffers, cancel), cache.advance(cache.values)
        graph, (rows, tokens) = self.manifest.graphs.decode, input_ids.shape
        feeds: dict[str, NDArray[Any]] = {"input_ids": input_ids}
        if not self._in_place:
            feeds["past_lengths"] = cache.lengths
            past = cache.by_name("past_key_values")
            logits, *values = self._executor.run(self.decode_session, graph, feeds, past, cancel)
            return logits.numpy(), cache.advance(self._to_tensors(values), tokens)
        cache = ensure_free_slots(cache, self.manifest.cache, self.placement, tokens)
        session, wide_batch = self.decode_session, self.manifest.precision.wide_batch
        if wide_batch is not None and rows >= wide_batch:
            session, graph = self.prefill_session, self.manifest.graphs.prefill
        if any(spec.name == "image_features" for spec in graph.inputs):  # `graph` is the prefill graph
            feeds["image_features"] = np.zeros((rows, 0, self.manifest.model.hidden_size), dtype=np.float32)
            feeds["text_lengths"] = np.full(rows, tokens, dtype=np.int64)
        return self._run_in_place(session, graph, feeds, cache, cancel), cache.advance(cache.values, tokens)

    def _step(self, input_ids: Ids, cache: Cache, buffers: StepBuffers, cancel: Cancellation) -> Array:
        """Run a decode step in buffers of the pool, and return logits float32[B, V]."""
        buffers.write_inputs(input_ids, cache.lengths)
        graph = self.manifest.graphs.decode
        self._executor.step(self.decode_session, graph, buffers.binding, buffers.graph_id, cancel)
        return buffers.logits.numpy()

    def release(self, cache: Cache, *, reusable: bool) -> None:
        """Release the memory of a batch that has ended. If `reusable` is true, the pool keeps the memory."""
        if self.buffer_pool is not None and cache.step_buffers is not None and reusable:
            self.buffer_pool.release(cache.step_buffers)

    def decode_masks(self, codes: Ids, cancel: Cancellation) -> Array:
        """Decode masks: int64[masks, 16] -> float32[masks, side, side], positive inside a mask."""
        graph = self.manifest.graphs.mask_decoder
        if graph is None or self.mask_session is None:
            raise BundleError(NO_MASK_DECODER)
        masks: Array = self._executor.run(self.mask_session, graph, {"codes": codes}, {}, cancel)[0].numpy()
        return masks

    def _run_in_place(
        self,
        session: Session,
        graph: GraphSpec,
        feeds: Mapping[str, NDArray[Any]],
        cache: Cache,
        cancel: Cancellation,
        *,
        inputs: Mapping[str, DeviceTensor] = MappingProxyType({}),
        shrink_arena: bool = False,
    ) -> Array:
        """Run a graph that updates the cache in place; return its logits.

        The cache keeps its tensors. The OrtValues of the outputs are discarded, because an OrtValue keeps the
        session and its weights in memory.
        """
        logits, *_ = self._executor.run(
            session,
            graph,
            {**feeds, "past_lengths": cache.lengths},
            {**inputs, **cache.by_name("past_key_values")},
            cancel,
            outputs=cache.by_name("present"),
            shrink_arena=shrink_arena,
        )
        return logits.numpy()

    def _to_tensors(self, values: list[OrtValue]) -> tuple[DeviceTensor, ...]:
        dtype = self.manifest.cache.dtype
        return tuple(DeviceTensor(value, dtype, tuple(value.shape()), self.placement) for value in values)

    def __del__(self) -> None:
        """Close the sessions and free the weights while no CUDA graph is captured. Then shrink the arena."""
        # Errors are suppressed: the object may be incomplete, or the GPU may have failed.
        with suppress(Exception), device_lock(self.placement.device):
            placement = self.placement
            vars(self).clear()
            if not sys.is_finalizing():  # when the process ends, the system frees everything
                shrink_arena(placement)

    @property
    def _in_place(self) -> bool:
        return self.manifest.cache.update == "in_place"

    @cached_property
    def _executor(self) -> Executor:
        return Executor(self.placement)
