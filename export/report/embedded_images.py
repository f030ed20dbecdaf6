"""Load the images of a validation.

An image is loaded as pixels for the graphs and as a copy that is embedded in the HTML page.

Shapes: docs/notation.md.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from paligemma_onnx.runtime.bundle.schema import ImageFacts
from paligemma_onnx.runtime.image.open import open_image
from paligemma_onnx.runtime.image.picture import preprocess_opened
from paligemma_onnx.runtime.image.preprocess import preprocess

from ..validation.self_check import synthetic_image
from .report_data import ImageInfo

MAX_SIDE = 800  # pixels of the longer side: enough to judge a box, and few enough for a small file
TINY_SIDE = 200  # pixels; smaller images are shown pixelated and stored without loss
QUALITY = 85  # JPEG quality on Pillow's scale
MIN_WIDTH = 420  # minimum width of a drawing in units, so that labels fit next to a narrow image


@dataclass(frozen=True)
class EmbeddedImage:
    """Image in the HTML page, stored no larger than the page shows it."""

    label: str  # text alternative
    width: int  # units of the drawing; the longer side is MAX_SIDE
    height: int
    uri: str  # data URI of the encoded image
    tiny: bool  # smaller than TINY_SIDE

    @property
    def drawing_width(self) -> int:
        """Width of the image with its labels, in units of the drawing."""
        return max(self.width, MIN_WIDTH)


@dataclass(frozen=True)
class InputImage:
    """Pixels and embedded copy of an opened image; the decoded photograph itself is freed."""

    pixels: NDArray[np.float32]  # [3, S, S], as the runtime computes them
    reference_pixels: NDArray[np.float32]  # as the reference's preprocessing computes them
    info: ImageInfo
    embedded: EmbeddedImage


def embed(rgb: Image.Image, label: str) -> EmbeddedImage:
    """Return a reduced and encoded copy of an image; `rgb` is not changed."""
    longest = max(rgb.size)
    tiny = longest < TINY_SIDE
    reduced = rgb.copy()
    reduced.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    reduced.save(buffer, "PNG" if tiny else "JPEG", quality=QUALITY)  # PNG ignores the quality
    content = base64.b64encode(buffer.getvalue()).decode("ascii")
    width, height = (max(1, round(side * MAX_SIDE / longest)) for side in rgb.size)
    uri = f"data:image/{'png' if tiny else 'jpeg'};base64,{content}"
    return EmbeddedImage(label, width, height, uri, tiny)


def load_input_image(
    path: str | None, facts: ImageFacts, processor: Callable[[Image.Image], NDArray[np.float32]] | None = None
) -> InputImage:
    """Open an image, or create the synthetic image if `path` is None.

    The processor is the preprocessing of the reference; None: the reference gets the runtime's pixels.

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
    if processor is not None and path is None:  # the synthetic pixels are not multiples of 1 / 255
        pixels = preprocess(rgb, facts.size, facts.mean, facts.std, facts.rescale_factor)
    reference_pixels = pixels if processor is None else processor(rgb)
    label = f"{path or 'synthetic image'}, {rgb.width} x {rgb.height} pixels"
    return InputImage(pixels, reference_pixels, ImageInfo(path, rgb.width, rgb.height), embed(rgb, label))
