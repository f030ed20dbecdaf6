"""A picture of a validation: as the graphs take it, and as the report shows it.

Legend: S image side in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from paligemma_onnx.runtime.bundle.schema import ImageFacts
from paligemma_onnx.runtime.image.open import open_image
from paligemma_onnx.runtime.image.picture import preprocess_opened

from ..validation.self_check import synthetic_image
from .embedded_images import Embedded, embed
from .findings import ImageInfo


@dataclass(frozen=True)
class InputImage:
    """What is left of a picture once it is opened; a photograph of many megapixels is not kept."""

    pixels: NDArray[np.float32]  # [3, S, S]
    pictured: ImageInfo
    embedded: Embedded


def load_input_image(image: str | None, facts: ImageFacts) -> InputImage:
    """Open a picture, or draw the synthetic one.

    Raises:
        ImageError: the picture cannot be opened.
        ResourceError: out of memory.
    """
    if image is None:
        pixels = synthetic_image(facts.size)
        rgb = Image.fromarray(((pixels + 1) * 127.5).astype(np.uint8).transpose(1, 2, 0))
    else:
        opened = open_image(image)
        rgb, pixels = opened.rgb, preprocess_opened(opened, facts).pixels
    label = f"{image or 'a synthetic picture'}, {rgb.width} x {rgb.height} pixels"
    return InputImage(pixels, ImageInfo(image, rgb.width, rgb.height), embed(rgb, label))
