"""Background of a scene: a plain or graded colour, clutter in some scenes, and noise over all pixels.

Backgrounds and clutter are pale or grey and objects are saturated, so the background never looks like an
object.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from .shapes import UInt8Array

CLUTTER = (8, 36)  # marks in a cluttered scene, lower bound included and upper bound excluded
MAX_NOISE_RANGE = 24  # levels between the lowest and the highest noise value


def draw_background(rng: np.random.RandomState, side: int) -> UInt8Array:
    """Draw a plain background, a gradient between two tones, or a plain one with clutter.

    Returns:
        uint8[S, S, 3] where S is `side`.
    """
    tone = _pale_tone(rng)
    kind = rng.randint(4)
    pixels = np.empty((side, side, 3), np.uint8)
    pixels[:] = tone
    if kind == 1:
        end_tone = _pale_tone(rng)
        weight = np.arange(side)[:, None] * 256 // side  # of `end_tone`, in 256ths
        gradient = ((256 - weight) * np.array(tone) + weight * np.array(end_tone)) >> 8
        pixels[:] = gradient[None].transpose(1, 0, 2) if rng.randint(2) else gradient[None]
    if kind >= 2:
        image = Image.fromarray(pixels)
        draw = ImageDraw.Draw(image)
        for _ in range(rng.randint(*CLUTTER)):
            _draw_mark(draw, rng, side)
        pixels = np.asarray(image)
    return pixels.copy()


def _pale_tone(rng: np.random.RandomState) -> tuple[int, int, int]:
    """Return a random RGB colour close to grey."""
    level = rng.randint(110, 236)
    red, green, blue = (int(level + rng.randint(-18, 19)) for _ in range(3))
    return red, green, blue


def _draw_mark(draw: ImageDraw.ImageDraw, rng: np.random.RandomState, side: int) -> None:
    """Draw a thin line, or a rectangle or ellipse smaller than the smallest object."""
    x, y = rng.randint(side, size=2).tolist()
    tone = _pale_tone(rng)
    if rng.randint(2):
        end_x, end_y = (int(start + rng.randint(-80, 81)) for start in (x, y))
        draw.line((x, y, end_x, end_y), fill=tone, width=int(rng.randint(1, 5)))
    else:
        box = (x, y, int(x + rng.randint(4, 24)), int(y + rng.randint(4, 24)))
        (draw.rectangle if rng.randint(2) else draw.ellipse)(box, fill=tone)


def add_noise(pixels: UInt8Array, rng: np.random.RandomState) -> UInt8Array:
    """Add integer noise to every channel of every pixel: uint8[S, S, 3] -> uint8[S, S, 3].

    The range of the noise is random per scene, from 0 to MAX_NOISE_RANGE levels. Each noise value is the
    mean of two uniform ones, which gives a triangular distribution.
    """
    noise_range = int(rng.randint(MAX_NOISE_RANGE + 1))
    if noise_range == 0:
        return pixels
    uniform = rng.randint(0, noise_range + 1, size=(2, *pixels.shape), dtype=np.uint8)
    noise = (uniform[0].astype(np.int16) + uniform[1]) // 2 - noise_range // 2
    noisy: UInt8Array = np.clip(pixels + noise, 0, 255).astype(np.uint8)
    return noisy
