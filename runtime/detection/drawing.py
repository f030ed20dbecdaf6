"""Drawing of boxes, labels and masks into an image, in the resolution of the image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from .detection import Detection
from .masks import paste

# RGB. The palette of Okabe and Ito without black (https://jfly.uni-koeln.de/color): its hues also differ in
# lightness, so that colour-blind viewers can distinguish neighbours.
COLOURS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
MASK_OPACITY = 0.45
LINES_PER_SIDE = 250  # thickness of a line = shorter side of the image / 250
LABELS_PER_SIDE = 28  # height of a label's text = shorter side of the image / 28
MIN_TEXT_HEIGHT = 11  # pixels; the font is not legible below
MAX_LABEL_HEIGHT = 0.2  # as a fraction of the image's height
MAX_LABEL_WIDTH = 0.75  # width of the text, as a fraction of the image's width
MAX_LABEL_CHARACTERS = 120  # more do not fit into any image
BRIGHT = 140  # luma of 255 above which black text is easier to read than white
_MIN_SIDE_FOR_SEAMS = 100  # pixels; in smaller images a dark seam would cover too much

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def draw(image: Image.Image, objects: Sequence[Detection]) -> Image.Image:
    """Return a copy of an image with objects drawn in.

    Masks are drawn first, then boxes, then labels, so that no label is covered by another object. A label
    that would cover much of a small image is left out.

    Args:
        image: RGB image in its displayed orientation. It may have any size, since the edges of boxes are
            fractions of the image's sides.
        objects: objects to draw. Their colours are assigned in this order.
    """
    colours = [COLOURS[index % len(COLOURS)] for index in range(len(objects))]
    side = min(image.size)
    has_seams = side > _MIN_SIDE_FOR_SEAMS
    line = max(1, round(side / LINES_PER_SIDE)) + has_seams  # at least two pixels if the image is not tiny
    drawn = _with_masks(image, objects, colours, line)
    canvas = ImageDraw.Draw(drawn)
    for detection, colour in zip(objects, colours, strict=True):
        left, top, right, bottom = _edges(detection, image)
        width = max(1, min(line, min(right - left, bottom - top) // 4))  # a small box is not filled
        if has_seams:  # separates a bright colour from a bright background
            seam = max(1, width // 4)
            outside = (left - seam, top - seam, right + seam, bottom + seam)
            canvas.rectangle(outside, outline="black", width=width + 2 * seam)
        canvas.rectangle((left, top, right, bottom), outline=colour, width=width)
    font = ImageFont.load_default(max(MIN_TEXT_HEIGHT, round(side / LABELS_PER_SIDE)))
    for detection, colour in zip(objects, colours, strict=True):
        left, top, *_ = _edges(detection, image)
        _draw_label(canvas, detection.label, (left, top), image.size, font, colour)
    return drawn


def _edges(detection: Detection, image: Image.Image) -> tuple[int, int, int, int]:
    """Return the left, top, right and bottom pixels of a box; all four lie inside the image."""
    left, top, right, bottom = (round(edge) for edge in detection.box.pixels(*image.size))
    left, top = min(left, image.width - 1), min(top, image.height - 1)
    return left, top, max(left, right - 1), max(top, bottom - 1)


def _with_masks(
    image: Image.Image, objects: Sequence[Detection], colours: Sequence[Colour], line: int
) -> Image.Image:
    """Return a copy of the image with translucent masks drawn in.

    Each mask has an opaque edge, so that it shows even if the object in the image has the mask's colour.
    """
    drawn = image.copy()
    for detection, colour in zip(objects, colours, strict=True):
        if detection.mask is not None:
            box = detection.box.pixels(*image.size)
            inside = paste(detection.mask.levels, box, image.height, image.width)
            opacity = np.where(inside, np.uint8(255 * MASK_OPACITY), np.uint8(0))
            opacity[inside & ~_eroded(inside, line)] = 255
            drawn.paste(colour, (0, 0), Image.fromarray(opacity))
    return drawn


def _eroded(inside: NDArray[np.bool_], line: int) -> NDArray[np.bool_]:
    """Return the pixels of a mask that are more than `line` pixels from its edge along rows and columns.

    Args:
        inside: bool[height, width].
        line: at least 1.

    Returns:
        bool[height, width].
    """
    inner = inside.copy()
    for mask, result in ((inside, inner), (inside.T, inner.T)):  # along rows, along columns
        result[line:] &= mask[:-line]
        result[:-line] &= mask[line:]
    return inner


def _draw_label(
    canvas: ImageDraw.ImageDraw,
    label: str,
    corner: tuple[int, int],
    size: tuple[int, int],
    font: Font,
    colour: Colour,
) -> None:
    """Draw a label on a background of its object's colour, above the box or inside it at the image's edge."""
    left, top = corner
    image_width, image_height = size
    text = _shortened(canvas, label, MAX_LABEL_WIDTH * image_width, font)
    _, ascent, _, descent = canvas.textbbox((0, 0), "Ag", font=font)
    margin = max(1, round((descent - ascent) / 4))
    height, width = descent - ascent + 2 * margin, round(canvas.textlength(text, font=font)) + 2 * margin
    if not text or height > MAX_LABEL_HEIGHT * image_height or width > image_width:
        return
    x = max(0, min(left, image_width - width))
    y = top - height if top >= height else top
    canvas.rectangle((x, y, x + width - 1, y + height - 1), fill=colour)
    red, green, blue = colour
    luma = 0.299 * red + 0.587 * green + 0.114 * blue  # ITU-R BT.601, section 2.5.1
    ink = "black" if luma > BRIGHT else "white"
    canvas.text((x + margin, y + margin - ascent), text, fill=ink, font=font)


def _shortened(canvas: ImageDraw.ImageDraw, label: str, max_width: float, font: Font) -> str:
    """Return a label in one line of at most `max_width` pixels; what is cut off is replaced by `...`."""
    label = " ".join("".join(char if char.isprintable() else " " for char in label).split())
    text = label[:MAX_LABEL_CHARACTERS]
    while text and canvas.textlength(text if text == label else f"{text}...", font=font) > max_width:
        text = text[:-1]
    return text if text == label or not text else f"{text}..."
