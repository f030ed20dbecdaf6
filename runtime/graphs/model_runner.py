"""What the driver's loop needs of a model: the graphs' calls, from whoever computes them."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..bundle.schema import Manifest
from ..cancellation import Cancellation
from ..engine.devices import Placement
from .kv_cache import Cache

Array = NDArray[np.float32]
Ids = NDArray[np.int64]
ImageFeatures = (
    Any  # of pictures, float32[P, I, D] or [B, N, D], wherever the runner has them; NumPy reads them
)


class ModelRunner(Protocol):
    """The graphs' calls, from whoever computes them; `GraphRunner` documents shapes."""

    @property
    def manifest(self) -> Manifest: ...  # noqa: D102  facts of the model

    @property
    def placement(self) -> Placement: ...  # noqa: D102  where it runs

    def encode_image(self, pixel_values: Array, cancel: Cancellation) -> ImageFeatures: ...  # noqa: D102

    def arrange(self, features: ImageFeatures, pictures: Ids, cancel: Cancellation) -> ImageFeatures: ...  # noqa: D102

    def prefill(  # noqa: D102
        self,
        input_ids: Ids,
        image_features: ImageFeatures,
        text_lengths: Ids,
        slots: int,
        cancel: Cancellation,
    ) -> tuple[Array, Cache]: ...

    def decode(  # noqa: D102
        self, input_ids: Ids, cache: Cache, cancel: Cancellation
    ) -> tuple[Array, Cache]: ...

    def release(self, cache: Cache, *, sound: bool) -> None: ...  # noqa: D102

    def decode_masks(self, codes: Ids, cancel: Cancellation) -> Array: ...  # noqa: D102
