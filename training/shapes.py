"""Outlines as coverage: how much of each pixel a shape fills, and the pattern of its surface.

Coordinates are rounded to a quarter of a pixel before anything is drawn, and all that follows is whole-number
arithmetic, so a shape is the same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Levels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

FINE = 4  # a pixel is drawn as FINE x FINE smaller ones, whose mean is its coverage
HOLE = 0.5  # of a ring, as a share of its diameter
ARM = 0.36  # width of a cross's arm, as a share of its side
INNER = 0.45  # radius of a star's inner corners, as a share of its outer ones

PERIOD = 14  # pixels from one stripe or dot to the next
STRIPE = 6  # pixels
DOT_RADIUS = 4  # pixels
DARKER = 40  # percent of the colour that a stripe has
DOT_LEVEL = 245  # of all three channels


def coverage(shape: str, side: int, angle: float) -> Levels:
    """Draw one shape.

    Args:
        shape: one of `vocabulary.SHAPES`.
        side: diameter of a circle, side of a square, and so on, in pixels.
        angle: radians, anticlockwise.

    Returns:
        uint8[H, W], 255 where the shape fills the pixel, cut to what it touches.
    """
    extent = math.ceil(side * math.sqrt(2)) + 2  # a turned square's diagonal
    canvas = Image.new("L", (extent * FINE, extent * FINE))
    middle, radius = extent / 2, side / 2

    def place(x: float, y: float) -> tuple[int, int]:
        """From units of the radius around the middle to fine pixels."""
        turned_x = x * math.cos(angle) + y * math.sin(angle)
        turned_y = y * math.cos(angle) - x * math.sin(angle)
        return round((middle + turned_x * radius) * FINE), round((middle + turned_y * radius) * FINE)

    draw = ImageDraw.Draw(canvas)
    if shape in ("circle", "ring"):
        for share, level in ((1.0, 255), (HOLE, 0))[: 1 + (shape == "ring")]:
            first, last = (middle - radius * share) * FINE, (middle + radius * share) * FINE
            draw.ellipse((round(first), round(first), round(last), round(last)), fill=level)
    else:
        draw.polygon([place(x, y) for x, y in CORNERS[shape]()], fill=255)
    pixels = np.asarray(canvas.reduce(FINE))
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    return pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _square() -> list[tuple[float, float]]:
    return [(-1, -1), (1, -1), (1, 1), (-1, 1)]


def _triangle() -> list[tuple[float, float]]:
    return [(0, -1.1), (1.05, 0.8), (-1.05, 0.8)]


def _star() -> list[tuple[float, float]]:
    radii = (1.15, 1.15 * INNER)
    turns = [index * math.pi / 5 for index in range(10)]
    return [(radii[i % 2] * math.sin(turn), -radii[i % 2] * math.cos(turn)) for i, turn in enumerate(turns)]


def _cross() -> list[tuple[float, float]]:
    a = ARM
    return [
        *((-a, -1), (a, -1), (a, -a), (1, -a), (1, a), (a, a)),
        *((a, 1), (-a, 1), (-a, a), (-1, a), (-1, -a), (-a, -a)),
    ]


# In units of half the side, y downwards.
CORNERS: dict[str, Callable[[], list[tuple[float, float]]]] = {
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
}


def surface(texture: str, colour: tuple[int, int, int], height: int, width: int, slant: int) -> Levels:
    """The pixels of a shape's surface before its outline is cut: uint8[H, W, 3].

    Args:
        texture: one of `vocabulary.TEXTURES`.
        colour: RGB.
        height: pixels.
        width: pixels.
        slant: 0 to 3, the direction of stripes; any whole number, the offset of dots.
    """
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[:] = colour
    y, x = np.mgrid[0:height, 0:width]
    if texture == "striped":
        # Along a diagonal a step covers 1.41 pixels, so its stripes come 3/2 as far apart.
        along, period, stripe = (
            (x, PERIOD, STRIPE),
            (y, PERIOD, STRIPE),
            (x + y, PERIOD * 3 // 2, STRIPE * 3 // 2),
            (x - y, PERIOD * 3 // 2, STRIPE * 3 // 2),
        )[slant % 4]
        pixels[along % period < stripe] = [channel * DARKER // 100 for channel in colour]
    elif texture == "dotted":
        half = PERIOD // 2
        across, down = (x + slant) % PERIOD - half, (y + slant) % PERIOD - half
        pixels[across**2 + down**2 <= DOT_RADIUS**2] = DOT_LEVEL
    return pixels
