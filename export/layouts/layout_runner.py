"""Run the graphs of a layout as the other tool does, with the interface of a bundle.

The rows of a batch are padded on the left here and on the right in a bundle, so the runner moves the columns
of prompts and caches. It is meant for comparisons and not for speed.

Shapes: docs/notation.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paligemma_onnx.runtime.bundle.layout_record import LayoutGraphs, LayoutName, LayoutRecord
from paligemma_onnx.runtime.bundle.schema import GraphSpec, Manifest
from paligemma_onnx.runtime.cancellation import Cancellation
from paligemma_onnx.runtime.engine.device_tensor import DeviceTensor
from paligemma_onnx.runtime.engine.devices import Placement
from paligemma_onnx.runtime.engine.memory import trim_heap
from paligemma_onnx.runtime.engine.session import open_session
from paligemma_onnx.runtime.errors import BundleError
from paligemma_onnx.runtime.graphs.kv_cache import Cache
from paligemma_onnx.runtime.graphs.model_runner import Array, Ids, ImageFeatures, concatenate_images

from ..bundle.draft_manifest import draft_manifest
from ..bundle.manifest_facts import describe_precision
from ..source import Source
from ..validation.float32_emulation import needs_emulation, open_float32_emulation
from .layout import PRECISION_NAMES


@dataclass(frozen=True)
class LayoutRunner:
    """`ModelRunner` of a layout; runtime/graphs/model_runner.py describes the methods."""

    folder: Path
    layout: LayoutName
    manifest: Manifest  # facts of the model; its bundle id is the id of the layout
    graphs: LayoutGraphs
    placement: Placement
    opened: dict[str, Any] = field(default_factory=dict)  # the open sessions, by file

    def encode_image(self, pixel_values: Array, cancel: Cancellation) -> Array:
        """Encode images one at a time: float32[M, 3, S, S] -> float32[M, I, D]."""
        features = []
        for pixels in pixel_values[:, None]:
            cancel.check()
            features.append(self._run(self.graphs.vision_encoder, {"pixel_values": pixels})[0])
        return np.stack(features).reshape(len(features), self.manifest.image.tokens, -1)

    def gather_image_features(self, features: ImageFeatures, images: Ids, cancel: Cancellation) -> Array:
        """Concatenate each row's images: float32[M, I, D], int64[B, N / I] -> float32[B, N, D]."""
        cancel.check()
        return concatenate_images(features, images)

    def prefill(
        self,
        input_ids: Ids,
        image_features: ImageFeatures,
        text_lengths: Ids,
        slots: int,  # noqa: ARG002
        cancel: Cancellation,
    ) -> tuple[Array, Cache]:
        """Read the prompts of a batch; `slots` is not used, because the cache grows with each step."""
        cancel.check()
        facts, features = self.manifest.cache, np.asarray(image_features)
        images = np.full(features.shape[:2], self.manifest.tokens.image, np.int64)
        ids = np.concatenate([images, input_ids], axis=1)
        lengths = features.shape[1] + text_lengths
        padding = ids.shape[1] - lengths
        ids = _shift(ids, padding, axis=0)
        mask = (np.arange(ids.shape[1]) >= padding[:, None]).astype(np.int64)
        ids = np.where(mask, ids, self.manifest.tokens.pad)
        empty = np.zeros((len(ids), facts.heads, 0, facts.head_dim), np.float32)
        past = [empty] * (2 * facts.layers)
        logits, present = self._decode(self._embed(ids, features), mask, past)
        return logits, Cache(self._to_values(present, -padding), lengths)

    def decode(self, input_ids: Ids, cache: Cache, cancel: Cancellation) -> tuple[Array, Cache]:
        """Add a token to each row: int64[B, 1]. The graphs return the logits of the last token only."""
        cancel.check()
        slots = cache.values[0].shape[2]
        padding = slots - cache.lengths
        past = [_shift(value.to_numpy_view(), padding, axis=1) for value in cache.values]
        mask = (np.arange(slots + 1) >= padding[:, None]).astype(np.int64)
        no_features = np.zeros((len(input_ids), 0, self.manifest.model.hidden_size), np.float32)
        logits, present = self._decode(self._embed(input_ids, no_features), mask, past)
        del past  # as large as the cache
        return logits, cache.advance(self._to_values(present, -padding))

    def release(self, cache: Cache, *, reusable: bool) -> None:
        """Do nothing, because Python frees the cache when its last reference is gone."""

    def decode_masks(self, codes: Ids, cancel: Cancellation) -> Array:  # noqa: ARG002
        """Raise BundleError, because a layout has no mask decoder."""
        raise BundleError("this layout has no mask decoder")

    def _embed(self, ids: Ids, features: Array) -> Array:
        """Return embedded tokens with the features of images in their places: float32[B, L, D]."""
        feeds: dict[str, NDArray[Any]] = {"input_ids": ids}
        if self.layout == "genai":
            feeds["image_features"] = features.reshape(-1, features.shape[2])
        embeds = self._run(self.graphs.embedding, feeds)[0].copy()
        if self.layout == "transformers.js":
            embeds[ids == self.manifest.tokens.image] = features.reshape(-1, features.shape[2])
        return embeds

    def _decode(self, embeds: Array, mask: Ids, past: list[Array]) -> tuple[Array, list[Array]]:
        """Run the decoder on float32[B, L, D] and a cache padded on the left; return logits float32[B, V]."""
        positions = np.maximum(mask.cumsum(axis=1) - 1, 0)[:, -embeds.shape[1] :]
        named = [spec.name for spec in self.graphs.decoder.inputs]
        feeds = dict(zip(named, (embeds, mask, positions, *past), strict=True))
        logits, *present = self._run(self.graphs.decoder, feeds)
        return logits[:, 0], present

    def _run(self, graph: GraphSpec, feeds: dict[str, NDArray[Any]]) -> list[Array]:
        if graph.file not in self.opened:
            # Every step needs both the embedding, whose weights stay in the file, and the decoder.
            self.opened.pop(self.graphs.vision_encoder.file, None)
            trim_heap()
            self.opened[graph.file] = self._open(graph)
            trim_heap()
        outputs: list[Array] = self.opened[graph.file].run(None, feeds)
        return outputs

    def _open(self, graph: GraphSpec) -> Any:
        # To run float16 on a CPU, onnxruntime would convert all weights to float32 when it opens the graph.
        if needs_emulation(self.manifest, self.placement):
            return open_float32_emulation(self.folder, graph, self.placement)
        return open_session(self.folder, graph, self.manifest, self.placement)

    def _to_values(self, cache: list[Array], shift: Ids) -> tuple[DeviceTensor, ...]:
        """Return moved copies of the tensors of a cache, and empty the list, so that they are freed."""
        values = []
        while cache:
            moved = _shift(cache.pop(0), shift, axis=1)
            values.append(DeviceTensor.from_numpy(moved, "float32", self.placement, "a cache"))
        return tuple(values)


def open_layout(
    folder: Path, record: LayoutRecord, source: Source, dtype: str, placement: Placement
) -> LayoutRunner:
    """Return a runner of the graphs of one dtype.

    Args:
        folder: the folder of the layout.
        record: its record.
        source: the checkpoint, which provides the facts of the model.
        dtype: number format of the graphs.
        placement: device of the graphs.
    """
    facts = draft_manifest(source, "fp32")
    manifest = replace(
        facts,
        bundle_id=record.layout_id,
        graphs=replace(facts.graphs, mask_decoder=None),
        precision=describe_precision(PRECISION_NAMES[dtype]),
    )
    return LayoutRunner(folder, record.layout, manifest, record.graphs[dtype], placement)


def _shift(array: NDArray[Any], columns: Ids, axis: int) -> NDArray[Any]:
    """Move the columns of each row b to the right by `columns[b]`; `axis` is the axis of columns in a row."""
    return np.stack([np.roll(row, count, axis) for row, count in zip(array, columns, strict=True)])
