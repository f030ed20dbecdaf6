"""Load an image of a validation: its pixels for the graphs, and its copy for the HTML page.

Shapes: docs/notation.md.
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
from .embedded_images import EmbeddedImage, embed
from .report_data import ImageInfo


@dataclass(frozen=True)
class InputImage:
    """The parts of an opened image that are used later; the decoded photograph itself is freed."""

    pixels: NDArray[np.float32]  # [3, S, S]
    info: ImageInfo
    embedded: EmbeddedImage


def load_input_image(path: str | None, facts: ImageFacts) -> InputImage:
    """Open an image, or make the synthetic one if `path` is None.

    Raises:
        ImageError: the image cannot be opened.
        ResourceError: out of memory.
    """
    if path is None:
        pixels = synthetic_image(facts.size)
        rgb = Image.fromarray(((pixels + 1) * 127.5).astype(np.uint8).transpose(1, 2, 0))
    else:
        opened = open_image(path)
        rgb, pixels = opened.rgb, preprocess_opened(opened, facts).pixels
    label = f"{path or 'synthetic image'}, {rgb.width} x {rgb.height} pixels"
    return InputImage(pixels, ImageInfo(path, rgb.width, rgb.height), embed(rgb, label))
