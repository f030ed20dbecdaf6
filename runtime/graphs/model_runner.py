"""Interface that the decode loop needs from a model: the calls of its graphs.

OnnxModelRunner implements it with onnxruntime, the exporter's TorchModelRunner with torch.

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
ImageFeatures = DeviceTensor | Array  # float32[M, I, D] or [B, N, D]; `np.asarray` copies them to the CPU


class ModelRunner(Protocol):
    """The graphs of one model as methods; may be called from several threads.

    Every method that runs a graph raises:
        Cancelled: `cancel` was thrown before or during the run.
        BundleError: onnxruntime failed.
        ProviderError: the GPU failed.
        ResourceError: out of memory.
    """

    @property
    def manifest(self) -> Manifest:
        """Facts of the model."""

    @property
    def placement(self) -> Placement:
        """Where the graphs run."""

    def encode_image(self, pixel_values: Array, cancel: Cancellation) -> ImageFeatures:
        """Encode images: float32[M, 3, S, S] -> float32[M, I, D]."""

    def gather_image_features(
        self, features: ImageFeatures, images: Ids, cancel: Cancellation
    ) -> ImageFeatures:
        """Concatenate the image features of each row of a batch.

        Args:
            features: float32[M, I, D].
            images: int64[B, N / I], the images of each row as indices of `features`, in reading order.
            cancel: stops the run from another thread.

        Returns:
            float32[B, N, D]; may share the memory of `features`.
        """

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
            image_features: float32[B, N, D].
            text_lengths: int64[B], number of tokens of each row without padding.
            slots: the largest number of cache slots that a row will use, N + T or more.
            cancel: stops the run from another thread.

        Returns:
            Logits float32[B, V] of each row's last token, and the cache.
        """

    def decode(self, input_ids: Ids, cache: Cache, cancel: Cancellation) -> tuple[Array, Cache]:
        """Add one token to each row.

        Args:
            input_ids: int64[B, 1].
            cache: from `prefill` or the previous `decode` of the same batch.
            cancel: stops the run from another thread.

        Returns:
            Logits float32[B, V], and the cache with the token. The new cache may have the memory of the old
            one.

        Raises:
            ValueError: a row has used all the slots that `prefill` was asked for.
        """

    def release(self, cache: Cache, *, reusable: bool) -> None:
        """Take back the memory of a batch that has ended.

        Args:
            cache: the last one of the batch.
            reusable: whether all values in it are finite; otherwise the memory is freed.
        """

    def decode_masks(self, codes: Ids, cancel: Cancellation) -> Array:
        """Decode masks: int64[masks, 16] -> float32[masks, side, side], positive inside a mask.

        Raises:
            BundleError: the bundle has no mask decoder.
        """
