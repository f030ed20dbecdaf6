"""Images of the HTML page: encoded once, and the boxes drawn over them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from paligemma_onnx.runtime.detection.parsing import ParsedObject

from .charts import shorten

MAX_SIDE = 800  # pixels of the longer side: enough to judge a box by, and the file stays small
TINY_SIDE = 200  # pixels; images below it are shown pixelated and stored without loss
QUALITY = 85  # of JPEG, on Pillow's scale
MIN_WIDTH = 420  # units of a drawing, so that labels fit next to a narrow image
FONT_SIZE = 26  # units; about 12 pixels on a phone, 18 on a screen
MAX_LABEL_CHARS = 24  # longer labels are cut; the table has them in full
CHAR_WIDTH = 0.6  # of FONT_SIZE, estimated


@dataclass(frozen=True)
class EmbeddedImage:
    """Image in the page, no larger than it is shown."""

    label: str  # text alternative
    width: int  # units that it is drawn in; the longer side is MAX_SIDE
    height: int
    uri: str  # data:...
    tiny: bool

    @property
    def drawing_width(self) -> int:
        """Width of the drawing, in units."""
        return max(self.width, MIN_WIDTH)


@dataclass(frozen=True)
class DrawnBox:
    """Box of an object with its label."""

    side: str  # R: reference, B: bundle
    path: str  # SVG
    text: str
    x: float  # of the text
    y: float


def embed(rgb: Image.Image, label: str) -> EmbeddedImage:
    """Reduce and encode an image; `rgb` is not changed."""
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


def draw_boxes(
    image: EmbeddedImage, reference: Sequence[ParsedObject], bundle: Sequence[ParsedObject]
) -> list[DrawnBox]:
    """Lay out the boxes of both sides, in units of the image.

    The reference's labels are above their boxes and the bundle's below, so that both can be read if two boxes
    coincide.
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
