"""Load the images of a validation, and lay out the boxes that the HTML page draws over them.

An image is loaded as pixels for the graphs and as a copy that is embedded in the HTML page.

Shapes: docs/notation.md.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from paligemma_onnx.runtime.bundle.schema import ImageFacts
from paligemma_onnx.runtime.detection.parsing import ParsedObject
from paligemma_onnx.runtime.image.open import open_image
from paligemma_onnx.runtime.image.picture import preprocess_opened
from paligemma_onnx.runtime.image.preprocess import preprocess

from ..validation.self_check import synthetic_image
from .charts import shorten
from .report_data import ImageInfo

MAX_SIDE = 800  # pixels of the longer side: enough to judge a box, and few enough for a small file
TINY_SIDE = 200  # pixels; smaller images are shown pixelated and stored without loss
QUALITY = 85  # JPEG quality on Pillow's scale
MIN_WIDTH = 420  # width of a drawing in units, so that labels fit next to a narrow image
FONT_SIZE = 26  # units; about 12 pixels on a phone, 18 on a screen
MAX_LABEL_CHARS = 24  # longer labels are cut; the table of the report shows the whole label
CHAR_WIDTH = 0.6  # estimated width of a character, as a share of FONT_SIZE


@dataclass(frozen=True)
class EmbeddedImage:
    """Image in the HTML page, stored no larger than the page shows it."""

    label: str  # text alternative
    width: int  # in units of the drawing; the longer side is MAX_SIDE
    height: int
    uri: str  # data:...
    tiny: bool

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


@dataclass(frozen=True)
class DrawnBox:
    """Box of an object with its label."""

    side: str  # R: reference, B: bundle
    path: str  # SVG
    text: str
    x: float  # position of the text
    y: float


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


def draw_boxes(
    image: EmbeddedImage, reference: Sequence[ParsedObject], bundle: Sequence[ParsedObject]
) -> list[DrawnBox]:
    """Return the boxes of the reference and of the bundle, in units of the drawing of `image`.

    The reference's labels are above their boxes and the bundle's labels are below their boxes, so that two
    labels can be read even if their boxes coincide.
    """
    boxes = []
    for side, objects in (("R", reference), ("B", bundle)):
        for number, detection in enumerate(objects, start=1):
            left, top, right, bottom = detection.box.pixels(image.width, image.height)
            text = f"{side}{number} {shorten(detection.label, MAX_LABEL_CHARS)}"
            last = image.drawing_width - CHAR_WIDTH * FONT_SIZE * len(text)
            x, y = max(0.0, min(left, last)), top - 6 if side == "R" else bottom + FONT_SIZE
            path = f"M{left:.1f},{top:.1f}H{right:.1f}V{bottom:.1f}H{left:.1f}z"
            boxes.append(DrawnBox(side, path, text, x, y))
    return boxes
