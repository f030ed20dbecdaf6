"""What is behind the objects: a plain or shaded ground, clutter on some, and noise over everything.

Grounds and clutter are pale or grey, objects are not, so nothing of the backdrop is an object.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from .shapes import Levels

MOST_CLUTTER = 36  # strokes and specks
MOST_NOISE = 24  # levels from the lowest to the highest noise value


def ground(rng: np.random.RandomState, side: int) -> Levels:
    """A ground of one tone, of two that run into each other, or with clutter: uint8[S, S, 3]."""
    tone = _pale(rng)
    kind = rng.randint(4)
    pixels = np.empty((side, side, 3), np.uint8)
    pixels[:] = tone
    if kind == 1:
        other = _pale(rng)
        share = np.arange(side)[:, None] * 256 // side  # of 256
        blend = ((256 - share) * np.array(tone) + share * np.array(other)) >> 8
        pixels[:] = blend[None].transpose(1, 0, 2) if rng.randint(2) else blend[None]
    if kind >= 2:
        image = Image.fromarray(pixels)
        draw = ImageDraw.Draw(image)
        for _ in range(rng.randint(8, MOST_CLUTTER)):
            _stroke(draw, rng, side)
        pixels = np.asarray(image)
    return pixels.copy()


def _pale(rng: np.random.RandomState) -> tuple[int, int, int]:
    """A tone near grey."""
    level = rng.randint(110, 236)
    red, green, blue = (int(level + rng.randint(-18, 19)) for _ in range(3))
    return red, green, blue


def _stroke(draw: ImageDraw.ImageDraw, rng: np.random.RandomState, side: int) -> None:
    """One thin line, or one speck smaller than the smallest object."""
    x, y = rng.randint(side, size=2).tolist()
    tone = _pale(rng)
    if rng.randint(2):
        to_x, to_y = (int(at + rng.randint(-80, 81)) for at in (x, y))
        draw.line((x, y, to_x, to_y), fill=tone, width=int(rng.randint(1, 5)))
    else:
        box = (x, y, int(x + rng.randint(4, 24)), int(y + rng.randint(4, 24)))
        (draw.rectangle if rng.randint(2) else draw.ellipse)(box, fill=tone)


def with_noise(pixels: Levels, rng: np.random.RandomState) -> Levels:
    """Add to every channel of every pixel a number between two limits that the scene draws.

    The number is the mean of two uniform ones: a triangle-shaped distribution in whole numbers.
    """
    span = int(rng.randint(MOST_NOISE + 1))
    if span == 0:
        return pixels
    drawn = rng.randint(0, span + 1, size=(2, *pixels.shape), dtype=np.uint8)
    noise = (drawn[0].astype(np.int16) + drawn[1]) // 2 - span // 2
    noisy: Levels = np.clip(pixels + noise, 0, 255).astype(np.uint8)
    return noisy
