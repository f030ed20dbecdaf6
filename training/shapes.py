"""Rendering of shapes: how much of each pixel a shape covers, and the texture of its surface.

Coordinates are rounded to a quarter of a pixel before drawing, and all later arithmetic is on integers, so a
shape has the same pixels on every machine.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

UInt8Array = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

SUBPIXELS = 4  # subpixels per pixel and axis; a pixel's coverage is the mean of its SUBPIXELS**2 subpixels
RING_HOLE = 0.5  # diameter of a ring's hole / diameter of the ring
CROSS_ARM = 0.36  # width of a cross's arm / side of the cross
STAR_INNER_RADIUS = 0.45  # radius of a star's inner corners / radius of its outer corners

TEXTURE_PERIOD = 14  # pixels from one stripe or dot to the next
STRIPE_WIDTH = 6  # pixels
DOT_RADIUS = 4  # pixels
STRIPE_BRIGHTNESS = 40  # percent of the object's colour
DOT_LEVEL = 245  # of all three channels, 0 to 255


def render_shape(shape: str, side: int, angle: float) -> UInt8Array:
    """Render the coverage of a rotated shape.

    Args:
        shape: a name of `vocabulary.SHAPES`.
        side: size in pixels: the diameter of a circle, the side of a square, and so on.
        angle: anticlockwise rotation in radians.

    Returns:
        uint8[height, width], 255 where the shape covers the whole pixel, cropped to the non-zero pixels.
    """
    extent = math.ceil(side * math.sqrt(2)) + 2  # the diagonal of a rotated square, and a margin
    canvas = Image.new("L", (extent * SUBPIXELS, extent * SUBPIXELS))
    middle, radius = extent / 2, side / 2

    def to_subpixels(x: float, y: float) -> tuple[int, int]:
        """Rotate a point given in radii from the middle; return subpixels from the top left corner."""
        rotated_x = x * math.cos(angle) + y * math.sin(angle)
        rotated_y = y * math.cos(angle) - x * math.sin(angle)
        return round((middle + rotated_x * radius) * SUBPIXELS), round(
            (middle + rotated_y * radius) * SUBPIXELS
        )

    draw = ImageDraw.Draw(canvas)
    if shape in ("circle", "ring"):
        for scale, level in ((1.0, 255), (RING_HOLE, 0))[: 1 + (shape == "ring")]:
            first, last = (middle - radius * scale) * SUBPIXELS, (middle + radius * scale) * SUBPIXELS
            draw.ellipse((round(first), round(first), round(last), round(last)), fill=level)
    else:
        draw.polygon([to_subpixels(x, y) for x, y in CORNERS[shape]], fill=255)
    pixels = np.asarray(canvas.reduce(SUBPIXELS))
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    return pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


_A = CROSS_ARM
_STAR_RADII = (1.15, 1.15 * STAR_INNER_RADIUS)
_STAR_ANGLES = [index * math.pi / 5 for index in range(10)]
# Corners in units of half the side, from the middle, y pointing down.
CORNERS: dict[str, list[tuple[float, float]]] = {
    "square": [(-1, -1), (1, -1), (1, 1), (-1, 1)],
    "triangle": [(0, -1.1), (1.05, 0.8), (-1.05, 0.8)],
    "star": [
        (_STAR_RADII[i % 2] * math.sin(angle), -_STAR_RADII[i % 2] * math.cos(angle))
        for i, angle in enumerate(_STAR_ANGLES)
    ],
    "cross": [
        *((-_A, -1), (_A, -1), (_A, -_A), (1, -_A), (1, _A), (_A, _A)),
        *((_A, 1), (-_A, 1), (-_A, _A), (-1, _A), (-1, -_A), (-_A, -_A)),
    ],
}


def render_texture(
    texture: str, colour: tuple[int, int, int], height: int, width: int, phase: int
) -> UInt8Array:
    """Render the surface of a shape as a rectangle, before the outline is cut out: uint8[height, width, 3].

    Args:
        texture: a name of `vocabulary.TEXTURES`.
        colour: RGB.
        height: pixels.
        width: pixels.
        phase: a non-negative integer; modulo 4 it chooses the direction of stripes, and it shifts dots by as
            many pixels.
    """
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[:] = colour
    y, x = np.mgrid[0:height, 0:width]
    if texture == "striped":
        # x + y grows by 1.41 per pixel across a diagonal stripe, so its period is longer, by 3/2.
        position, period, stripe = (
            (x, TEXTURE_PERIOD, STRIPE_WIDTH),
            (y, TEXTURE_PERIOD, STRIPE_WIDTH),
            (x + y, TEXTURE_PERIOD * 3 // 2, STRIPE_WIDTH * 3 // 2),
            (x - y, TEXTURE_PERIOD * 3 // 2, STRIPE_WIDTH * 3 // 2),
        )[phase % 4]
        pixels[position % period < stripe] = [channel * STRIPE_BRIGHTNESS // 100 for channel in colour]
    elif texture == "dotted":
        half = TEXTURE_PERIOD // 2
        across, down = (x + phase) % TEXTURE_PERIOD - half, (y + phase) % TEXTURE_PERIOD - half
        pixels[across**2 + down**2 <= DOT_RADIUS**2] = DOT_LEVEL
    return pixels
