"""Interface between the decode loop and a model: one method for each graph of the model.

OnnxModelRunner implements the interface with onnxruntime; the exporter's TorchModelRunner uses torch.

Shapes: docs/notation.md.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..bundle.schema import Manifest
from ..cancellation import Cancellation
from ..engine.device_tensor import DeviceTensor
from ..engine.devices import Placement
from .kv_cache import Cache

Array = NDArray[np.float32]
Ids = NDArray[np.int64]
ImageFeatures = DeviceTensor | Array  # float32[M, I, D] or [B, N, D]; `np.asarray` copies to the CPU


class ModelRunner(Protocol):
    """The graphs of one model as methods. Several threads may call the methods.

    Every method that runs a graph raises:
        Cancelled: `cancel` was thrown before or during the run.
        BundleError: onnxruntime failed.
        ProviderError: the GPU failed.
        ResourceError: out of memory.
    """

    @property
    def manifest(self) -> Manifest:
        """Manifest with the facts of the model."""

    @property
    def placement(self) -> Placement:
        """Device that the graphs run on."""

    def encode_image(self, pixel_values: Array, cancel: Cancellation) -> ImageFeatures:
        """Return the features of images: float32[M, 3, S, S] -> float32[M, I, D]."""

    def gather_image_features(
        self, features: ImageFeatures, images: Ids, cancel: Cancellation
    ) -> ImageFeatures:
        """Return the image features of each row of a batch, concatenated over the images of the row.

        Args:
            features: float32[M, I, D].
            images: int64[B, N / I], the images of each row in reading order, as indices of images in
                `features`.
            cancel: stops the run from another thread.

        Returns:
            float32[B, N, D]. The result may share the memory of `features`.
        """

    def prefill(
        self,
        input_ids: Ids,
        image_features: ImageFeatures,
        text_lengths: Ids,
        slots: int,
        cancel: Cancellation,
    ) -> tuple[Array, Cache]:
        """Run the prompts of a batch through the model, and return the first logits and the cache.

        Args:
            input_ids: int64[B, T], padded on the right.
            image_features: float32[B, N, D].
            text_lengths: int64[B], number of text tokens of each row, padding excluded.
            slots: the largest number of cache slots that a row will use; at least N + T.
            cancel: stops the run from another thread.

        Returns:
            Logits float32[B, V] of each row's last token, and the cache. Later calls do not overwrite the
            logits.
        """

    def decode(self, input_ids: Ids, cache: Cache, cancel: Cancellation) -> tuple[Array, Cache]:
        """Run one decode step, which adds T tokens to each row; return logits and cache.

        Each token sees itself and the tokens before it. A row of fewer than T tokens is padded on the right;
        the caller ignores the logits of the padding, and sets the length of that row in the returned cache.

        Args:
            input_ids: int64[B, T]. T is 1, unless `manifest.takes_chunks`.
            cache: from `prefill` or the previous `decode` of the same batch.
            cancel: stops the run from another thread.

        Returns:
            Logits float32[B * T, V] after each new token, in the order of `input_ids`, and the cache that
            includes the new tokens. Later calls do not overwrite the logits. The returned cache may share
            memory with `cache`.

        Raises:
            ValueError: a row has already used as many slots as the argument `slots` of `prefill`.
        """

    def release(self, cache: Cache, *, reusable: bool) -> None:
        """Release the memory of a batch that has ended.

        Args:
            cache: the cache that the last call for the batch returned.
            reusable: whether all values in the cache are finite. If not, its memory is freed, not reused.
        """

    def decode_masks(self, codes: Ids, cancel: Cancellation) -> Array:
        """Decode masks: int64[masks, 16] -> float32[masks, side, side], positive inside a mask.

        Raises:
            BundleError: the bundle has no mask decoder.
        """


def concatenate_images(features: ImageFeatures, images: Ids) -> Array:
    """Concatenate each row's images in CPU memory: float32[M, I, D], int64[B, N / I] -> float32[B, N, D]."""
    gathered: Array = np.asarray(features)[images].reshape(len(images), -1, features.shape[2])
    return gathered
