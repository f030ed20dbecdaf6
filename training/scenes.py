"""Scenes by seed: a few objects on a backdrop, perhaps a printed word, and all that is true of them.

A scene depends on its seed and on nothing else: NumPy's RandomState is frozen, and drawing is whole-number
arithmetic. Splits are ranges of seeds.

Legend: S scene side in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .background import ground, with_noise
from .shapes import Levels, Mask, coverage, surface
from .vocabulary import COLOURS, HELD_OUT, LARGEST_NUMBER, SHAPES, TEXTURES, TINT, WORDS

SIDE = 224  # S
SMALLEST, LARGEST = 54, 104  # side of an object, pixels
STEEPEST = 0.35  # radians an object may be turned either way
COUNTS = (20, 25, 25, 15, 15)  # percent of scenes with 1 to 5 objects
LEAST_VISIBLE = 0.65  # of an object, what others may not cover
APART = 20  # pixels from centre to centre along x, so that left and right are never in doubt
SIGNS = 35  # percent of scenes with a printed word or number
SIGN_HEIGHT = (44, 60)  # pixels of a line of print, from and below
SLANTS = 56  # different slants of a texture: a multiple of the four directions and of the period
TRIES = 60  # of placing one object before the scene does without it
SEEN_HALFWAY = 128  # coverage from which a pixel belongs to an object's mask

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels, right and bottom excluded
Combinations = Literal["seen", "held-out"]


@dataclass(frozen=True)
class Item:
    """One object."""

    colour: str
    shape: str
    texture: str
    box: Box  # of what is visible

    @property
    def name(self) -> str:
        """Colour and shape."""
        return f"{self.colour} {self.shape}"

    @property
    def centre(self) -> tuple[float, float]:
        """Middle of the box: x and y in pixels."""
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2

    @property
    def is_held_out(self) -> bool:
        """Whether training never shows this colour on this shape."""
        return (self.colour, self.shape) in HELD_OUT


@dataclass(frozen=True)
class Scene:
    """What is in a picture."""

    seed: int
    items: tuple[Item, ...]  # from left to right
    sign: str | None  # what is printed


@dataclass(frozen=True)
class Drawing:
    """A scene as a picture."""

    scene: Scene
    pixels: Levels  # uint8[S, S, 3]
    masks: tuple[Mask, ...]  # bool[S, S] for each item, what of it is visible


@dataclass
class _Placed:
    """An object while the scene is made: later ones may still cover it."""

    colour: str
    shape: str
    texture: str
    mask: Mask
    whole: int  # pixels of the uncovered mask


def draw(seed: int, combinations: Combinations = "seen") -> Drawing:
    """Draw the scene of a seed.

    Args:
        seed: 0 to 2**32 - 1.
        combinations: `seen` draws only pairs of colour and shape that are not held out; in `held-out` the
            first object is of a held-out pair and the others are of any.
    """
    rng = np.random.RandomState(seed)
    pixels = ground(rng, SIDE)
    count = 1 + int(np.searchsorted(np.cumsum(COUNTS), rng.randint(100), side="right"))
    sign, area = _draw_sign(pixels, rng) if rng.randint(100) < SIGNS else (None, None)
    placed: list[_Placed] = []
    for index in range(count):
        kind = _choose(rng, combinations, first=index == 0, placed=placed)
        _place(pixels, rng, kind, placed, area)
    items = [Item(one.colour, one.shape, one.texture, _box(one.mask)) for one in placed]
    order = sorted(range(len(items)), key=lambda i: items[i].centre)
    scene = Scene(seed, tuple(items[i] for i in order), sign)
    return Drawing(scene, with_noise(pixels, rng), tuple(placed[i].mask for i in order))


def _choose(
    rng: np.random.RandomState, combinations: Combinations, *, first: bool, placed: list[_Placed]
) -> tuple[str, str]:
    """Colour and shape of the next object; now and then the shape or colour of one that is there."""
    if first and combinations == "held-out":
        pairs = sorted(HELD_OUT)
        return pairs[rng.randint(len(pairs))]
    colours = list(COLOURS)
    while True:
        colour, shape = colours[rng.randint(len(colours))], SHAPES[rng.randint(len(SHAPES))]
        again = rng.randint(100)
        if placed and again < 45:
            model = placed[rng.randint(len(placed))]
            if again < 25:
                shape = model.shape
            else:
                colour = model.colour
        if combinations == "held-out" or (colour, shape) not in HELD_OUT:
            return colour, shape


def _place(
    pixels: Levels,
    rng: np.random.RandomState,
    kind: tuple[str, str],
    placed: list[_Placed],
    sign_area: Box | None,
) -> None:
    """Find room for an object, draw it over what is there, and take from the others' masks what it covers."""
    colour, shape = kind
    texture = TEXTURES[rng.randint(len(TEXTURES))] if rng.randint(2) else TEXTURES[0]
    tint = rng.randint(-TINT, TINT + 1, size=3)
    red, green, blue = (int(np.clip(c + t, 0, 255)) for c, t in zip(COLOURS[colour], tint, strict=True))
    slant = int(rng.randint(SLANTS))
    for _ in range(TRIES):
        side = int(rng.randint(SMALLEST, LARGEST + 1))
        angle = (int(rng.randint(-100, 101)) / 100) * STEEPEST
        cover = coverage(shape, side, angle)
        height, width = cover.shape
        left, top = int(rng.randint(SIDE - width + 1)), int(rng.randint(SIDE - height + 1))
        area = (left, top, left + width, top + height)
        mask = np.zeros((SIDE, SIDE), np.bool_)
        mask[top : top + height, left : left + width] = cover >= SEEN_HALFWAY
        same = [_box(one.mask) for one in placed if one.colour == colour]  # nobody could tell them apart
        if any(_overlap(area, other) for other in (*same, *([sign_area] if sign_area else []))):
            continue
        rest = [one.mask & ~mask for one in placed]
        if any(
            remaining.sum() < LEAST_VISIBLE * one.whole for remaining, one in zip(rest, placed, strict=True)
        ):
            continue
        centres = [(box[0] + box[2]) / 2 for box in map(_box, [*rest, mask])]
        if len(centres) > 1 and np.diff(np.sort(centres)).min() < APART:
            continue
        for one, remaining in zip(placed, rest, strict=True):
            one.mask = remaining
        spot = pixels[top : top + height, left : left + width]
        alpha = cover[..., None].astype(np.int32)
        paint = surface(texture, (red, green, blue), height, width, slant)
        spot[:] = (spot * (255 - alpha) + paint * alpha + 127) // 255
        placed.append(_Placed(colour, shape, texture, mask, int(mask.sum())))
        return


def _box(mask: Mask) -> Box:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _draw_sign(pixels: Levels, rng: np.random.RandomState) -> tuple[str, Box]:
    """Print a word or a number on a card: what it says, and the area it takes."""
    text = str(rng.randint(LARGEST_NUMBER + 1)) if rng.randint(2) else WORDS[rng.randint(len(WORDS))]
    font = ImageFont.load_default_imagefont()  # a bitmap, the same on every machine
    left, top, right, bottom = (int(edge) for edge in font.getbbox(text))
    line = Image.new("L", (right - left + 4, bottom - top + 2))
    ImageDraw.Draw(line).text((2 - left, 1 - top), text, fill=255, font=font)
    height = int(rng.randint(*SIGN_HEIGHT))
    width = line.width * height // line.height
    print_ = np.asarray(line.resize((width, height), Image.Resampling.BILINEAR)).astype(np.int32)[..., None]
    x, y = int(rng.randint(SIDE - width + 1)), int(rng.randint(SIDE - height + 1))
    ink, card = (int(rng.randint(0, 60)), int(rng.randint(215, 256)))
    pixels[y : y + height, x : x + width] = (card * (255 - print_) + ink * print_ + 127) // 255
    return text, (x, y, x + width, y + height)
