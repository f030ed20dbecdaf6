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
from paligemma_onnx.runtime.image.picture import picture_of

from ..validation.self_check import synthetic_picture
from .embedded_images import Embedded, embed
from .findings import Pictured


@dataclass(frozen=True)
class Seen:
    """What is left of a picture once it is opened; a photograph of many megapixels is not kept."""

    pixels: NDArray[np.float32]  # [3, S, S]
    pictured: Pictured
    embedded: Embedded


def see(image: str | None, facts: ImageFacts) -> Seen:
    """Open a picture, or draw the synthetic one.

    Raises:
        ImageError: the picture cannot be opened.
        ResourceError: out of memory.
    """
    if image is None:
        pixels = synthetic_picture(facts.size)
        rgb = Image.fromarray(((pixels + 1) * 127.5).astype(np.uint8).transpose(1, 2, 0))
    else:
        opened = open_image(image)
        rgb, pixels = opened.rgb, picture_of(opened, facts).pixels
    label = f"{image or 'a synthetic picture'}, {rgb.width} x {rgb.height} pixels"
    return Seen(pixels, Pictured(image, rgb.width, rgb.height), embed(rgb, label))
