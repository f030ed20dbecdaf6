"""Boxes, labels and masks drawn into a picture in its own resolution."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from .detection import Detection
from .masks import paste

# RGB. Hues far apart and of different lightness, so that neighbours differ for those who see no red or green,
# too (the order of Okabe and Ito's palette, https://jfly.uni-koeln.de/color, without black).
INK = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
VEIL = 0.45  # share of a mask's colour over the picture
LINE = 250  # the picture's shorter side by the thickness of a line
TEXT = 28  # the picture's shorter side by the height of a label
SMALLEST_TEXT = 11  # pixels; the font is not legible below
LABEL_ROOM = 0.2  # of the picture's height, which a label may take
LONGEST_LABEL = 120  # characters; more would fit into no picture
HALF_BRIGHT = 140  # of 255: black letters are easier to read on brighter colours


def draw(image: Image.Image, objects: Sequence[Detection]) -> Image.Image:
    """A copy of a picture with objects drawn in.

    Masks lie lowest, then boxes, labels on top, so that none hides under another object's. Where a label
    would cover much of a tiny picture, it is left out.

    Args:
        image: RGB, in its displayed orientation; of any size, since boxes are shares of it.
        objects: in the order of their colours.
    """
    inks = [INK[index % len(INK)] for index in range(len(objects))]
    side = min(image.size)
    line = max(1, round(side / LINE)) + (side > 100)  # two pixels at least, where there is room for them
    picture = _veiled(image, objects, inks, line)
    canvas = ImageDraw.Draw(picture)
    for one, ink in zip(objects, inks, strict=True):
        left, top, right, bottom = _corners(one, image)
        thick = max(1, min(line, min(right - left, bottom - top) // 4))  # a small box stays to be seen
        # A dark seam keeps a bright colour apart from a bright background.
        if side > 100:
            seam = max(1, thick // 4)
            around = (left - seam, top - seam, right + seam, bottom + seam)
            canvas.rectangle(around, outline="black", width=thick + 2 * seam)
        canvas.rectangle((left, top, right, bottom), outline=ink, width=thick)
    font = ImageFont.load_default(max(SMALLEST_TEXT, round(side / TEXT)))
    for one, ink in zip(objects, inks, strict=True):
        _label(canvas, one.label, _corners(one, image), image.size, font, ink)
    return picture


def _corners(one: Detection, image: Image.Image) -> tuple[int, int, int, int]:
    """Left, top, right and bottom, the last pixels inside."""
    left, top, right, bottom = (round(edge) for edge in one.box.pixels(*image.size))
    left, top = min(left, image.width - 1), min(top, image.height - 1)
    return left, top, max(left, right - 1), max(top, bottom - 1)


def _veiled(
    image: Image.Image, objects: Sequence[Detection], inks: Sequence[tuple[int, int, int]], line: int
) -> Image.Image:
    """Masks as veils with an edge, which shows where the colours of veil and object are alike."""
    picture = image.copy()
    for one, ink in zip(objects, inks, strict=True):
        if one.mask is not None:
            box = one.box.pixels(*image.size)
            inside = paste(one.mask.levels, box, image.height, image.width)
            strength = np.where(inside, np.uint8(255 * VEIL), np.uint8(0))
            strength[inside & ~_inner(inside, line)] = 255
            picture.paste(ink, (0, 0), Image.fromarray(strength))
    return picture


def _inner(inside: NDArray[np.bool_], line: int) -> NDArray[np.bool_]:
    """Pixels of a mask that are not within `line` pixels of its edge, along rows and columns: bool[H, W]."""
    inner = inside.copy()
    for axis in (0, 1):
        for one_way in (slice(line, None), slice(None, -line)):
            other = slice(None, -line) if one_way.start else slice(line, None)
            here = (one_way, slice(None)) if axis == 0 else (slice(None), one_way)
            there = (other, slice(None)) if axis == 0 else (slice(None), other)
            inner[here] &= inside[there]
    return inner


def _label(
    canvas: ImageDraw.ImageDraw,
    text: str,
    corners: tuple[int, int, int, int],
    size: tuple[int, int],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    ink: tuple[int, int, int],
) -> None:
    """A label on a ground of its object's colour: above the box, or inside it at the picture's upper edge."""
    left, top, *_ = corners
    width, height = size
    text = _shortened(canvas, text, width, font)
    _, above, _, below = canvas.textbbox((0, 0), "Ag", font=font)
    margin = max(1, round((below - above) / 4))
    tall, wide = below - above + 2 * margin, round(canvas.textlength(text, font=font)) + 2 * margin
    if not text or tall > LABEL_ROOM * height or wide > width:
        return
    x = max(0, min(left, width - wide))
    y = top - tall if top >= tall else top
    canvas.rectangle((x, y, x + wide - 1, y + tall - 1), fill=ink)
    red, green, blue = ink
    bright = 0.299 * red + 0.587 * green + 0.114 * blue  # luma (ITU-R BT.601, section 2.5.1)
    canvas.text(
        (x + margin, y + margin - above), text, fill="black" if bright > HALF_BRIGHT else "white", font=font
    )


def _shortened(
    canvas: ImageDraw.ImageDraw,
    text: str,
    width: int,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> str:
    """One line of text that takes three quarters of the picture's width at most."""
    text = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    whole, text = text, text[:LONGEST_LABEL]
    while text and canvas.textlength(text if text == whole else f"{text}...", font=font) > 0.75 * width:
        text = text[:-1]
    return text if text == whole or not text else f"{text}..."
