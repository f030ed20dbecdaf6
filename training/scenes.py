"""Scenes generated from seeds: up to five objects on a background, sometimes with a printed word or number.

A scene depends only on its seed: the streams of NumPy's legacy `RandomState` never change, and rendering is
integer arithmetic. Data splits are ranges of seeds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .background import add_noise, draw_background
from .shapes import Mask, UInt8Array, render_shape, render_texture
from .vocabulary import COLOURS, HELD_OUT_PAIRS, MAX_NUMBER, MAX_TINT, SHAPES, TEXTURES, WORDS

SCENE_SIDE = 224  # pixels
MIN_SIDE, MAX_SIDE = 54, 104  # side of an object, pixels
MAX_ANGLE = 0.35  # radians by which an object may be rotated in either direction
OBJECT_COUNT_PERCENT = (20, 25, 25, 15, 15)  # scenes with 1, 2, 3, 4 and 5 objects
MIN_VISIBLE = 0.65  # share of an object's pixels that later objects must leave uncovered
MIN_CENTRE_DISTANCE = 20  # pixels between object centres along x, so that left and right are unambiguous
SIGN_PERCENT = 35  # scenes with a printed word or number
SIGN_HEIGHT = (44, 60)  # pixels, lower bound included and upper bound excluded
PHASES = 56  # of a texture: a multiple of the four stripe directions and of TEXTURE_PERIOD
MAX_TRIES = 60  # placements tried for an object before the scene omits it
MASK_COVERAGE = 128  # coverage, 0 to 255, from which a pixel belongs to an object's mask
REPEAT_SHAPE_PERCENT, REPEAT_COLOUR_PERCENT = 25, 20  # objects that copy this property of an earlier object

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels, right and bottom excluded
Combinations = Literal["seen", "held-out"]


@dataclass(frozen=True)
class Split:
    """A range of seeds, as training or test data."""

    first: int
    count: int
    combinations: Combinations = "seen"

    def seeds(self) -> range:
        """Return the seeds in ascending order."""
        return range(self.first, self.first + self.count)


@dataclass(frozen=True)
class Item:
    """An object of a scene.

    Rendered datasets store `Item` and `Scene` with pickle: renaming a class, a field or this module makes
    datasets on disk unreadable.
    """

    colour: str
    shape: str
    texture: str
    box: Box  # around the visible pixels

    @property
    def name(self) -> str:
        """Colour and shape, for example "red star"."""
        return f"{self.colour} {self.shape}"

    @property
    def centre(self) -> tuple[float, float]:
        """Centre of the box as x and y in pixels."""
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2

    @property
    def is_held_out(self) -> bool:
        """True if no training scene contains this colour with this shape."""
        return (self.colour, self.shape) in HELD_OUT_PAIRS


@dataclass(frozen=True)
class Scene:
    """Description of a scene."""

    seed: int
    items: tuple[Item, ...]  # from left to right
    sign: str | None  # the printed word or number


@dataclass(frozen=True)
class RenderedScene:
    """A scene with its image and masks."""

    scene: Scene
    pixels: UInt8Array  # uint8[SCENE_SIDE, SCENE_SIDE, 3]
    masks: tuple[Mask, ...]  # bool[SCENE_SIDE, SCENE_SIDE] per item, true where the item is visible


@dataclass
class _PlacedObject:
    """An object of a scene under construction; objects placed later may cover parts of it."""

    colour: str
    shape: str
    texture: str
    mask: Mask  # bool[SCENE_SIDE, SCENE_SIDE], visible pixels
    area: int  # pixels of the uncovered object


def render_scene(seed: int, combinations: Combinations = "seen") -> RenderedScene:
    """Generate the scene of a seed and render it.

    Args:
        seed: of the random generator, 0 to 2**32 - 1.
        combinations: "seen" uses only pairs of colour and shape that are not held out; "held-out" makes the
            first object one of a held-out pair and draws the others from all pairs.
    """
    rng = np.random.RandomState(seed)
    pixels = draw_background(rng, SCENE_SIDE)
    count = 1 + int(np.searchsorted(np.cumsum(OBJECT_COUNT_PERCENT), rng.randint(100), side="right"))
    sign, sign_box = _draw_sign(pixels, rng) if rng.randint(100) < SIGN_PERCENT else (None, None)
    placed: list[_PlacedObject] = []
    for index in range(count):
        colour, shape = _choose_pair(rng, combinations, first=index == 0, placed=placed)
        _place_object(pixels, rng, colour, shape, placed, sign_box)
    items = [Item(item.colour, item.shape, item.texture, _bounding_box(item.mask)) for item in placed]
    order = sorted(range(len(items)), key=lambda index: items[index].centre)
    scene = Scene(seed, tuple(items[index] for index in order), sign)
    return RenderedScene(scene, add_noise(pixels, rng), tuple(placed[index].mask for index in order))


def _choose_pair(
    rng: np.random.RandomState, combinations: Combinations, *, first: bool, placed: list[_PlacedObject]
) -> tuple[str, str]:
    """Choose colour and shape of the next object; some repeat the shape or colour of an earlier object."""
    if first and combinations == "held-out":
        pairs = sorted(HELD_OUT_PAIRS)
        return pairs[rng.randint(len(pairs))]
    colours = list(COLOURS)
    while True:
        colour, shape = colours[rng.randint(len(colours))], SHAPES[rng.randint(len(SHAPES))]
        percentile = rng.randint(100)
        if placed and percentile < REPEAT_SHAPE_PERCENT + REPEAT_COLOUR_PERCENT:
            earlier = placed[rng.randint(len(placed))]
            if percentile < REPEAT_SHAPE_PERCENT:
                shape = earlier.shape
            else:
                colour = earlier.colour
        if combinations == "held-out" or (colour, shape) not in HELD_OUT_PAIRS:
            return colour, shape


def _place_object(
    pixels: UInt8Array,
    rng: np.random.RandomState,
    colour: str,
    shape: str,
    placed: list[_PlacedObject],
    sign_box: Box | None,
) -> None:
    """Find a place for an object, draw it into `pixels` and append it to `placed`.

    Pixels that the object covers are removed from the masks of earlier objects. If no place is found in
    MAX_TRIES tries, nothing changes.
    """
    texture = TEXTURES[rng.randint(len(TEXTURES))] if rng.randint(2) else TEXTURES[0]
    tint = rng.randint(-MAX_TINT, MAX_TINT + 1, size=3)
    red, green, blue = (int(np.clip(c + t, 0, 255)) for c, t in zip(COLOURS[colour], tint, strict=True))
    phase = int(rng.randint(PHASES))
    for _ in range(MAX_TRIES):
        side = int(rng.randint(MIN_SIDE, MAX_SIDE + 1))
        angle = (int(rng.randint(-100, 101)) / 100) * MAX_ANGLE
        coverage = render_shape(shape, side, angle)
        height, width = coverage.shape
        left, top = int(rng.randint(SCENE_SIDE - width + 1)), int(rng.randint(SCENE_SIDE - height + 1))
        box = (left, top, left + width, top + height)
        mask = np.zeros((SCENE_SIDE, SCENE_SIDE), np.bool_)
        mask[top : top + height, left : left + width] = coverage >= MASK_COVERAGE
        # Objects of one colour must not overlap: their outlines would merge. Nothing may cover the sign.
        obstacles = [_bounding_box(item.mask) for item in placed if item.colour == colour]
        obstacles += [sign_box] if sign_box else []
        if any(_boxes_overlap(box, obstacle) for obstacle in obstacles):
            continue
        visible = [item.mask & ~mask for item in placed]
        if any(
            remaining.sum() < MIN_VISIBLE * item.area for remaining, item in zip(visible, placed, strict=True)
        ):
            continue
        centres = [(box[0] + box[2]) / 2 for box in map(_bounding_box, [*visible, mask])]
        if len(centres) > 1 and np.diff(np.sort(centres)).min() < MIN_CENTRE_DISTANCE:
            continue
        for item, remaining in zip(placed, visible, strict=True):
            item.mask = remaining
        region = pixels[top : top + height, left : left + width]
        alpha = coverage[..., None].astype(np.int32)
        surface = render_texture(texture, (red, green, blue), height, width, phase)
        region[:] = (region * (255 - alpha) + surface * alpha + 127) // 255
        placed.append(_PlacedObject(colour, shape, texture, mask, int(mask.sum())))
        return


def _bounding_box(mask: Mask) -> Box:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _boxes_overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _draw_sign(pixels: UInt8Array, rng: np.random.RandomState) -> tuple[str, Box]:
    """Print a word or a number on a pale card and return the text and the card's box."""
    text = str(rng.randint(MAX_NUMBER + 1)) if rng.randint(2) else WORDS[rng.randint(len(WORDS))]
    font = ImageFont.load_default_imagefont()  # a bitmap font, the same on every machine
    left, top, right, bottom = (int(edge) for edge in font.getbbox(text))
    line = Image.new("L", (right - left + 4, bottom - top + 2))
    ImageDraw.Draw(line).text((2 - left, 1 - top), text, fill=255, font=font)
    height = int(rng.randint(*SIGN_HEIGHT))
    width = line.width * height // line.height
    alpha = np.asarray(line.resize((width, height), Image.Resampling.BILINEAR)).astype(np.int32)[..., None]
    x, y = int(rng.randint(SCENE_SIDE - width + 1)), int(rng.randint(SCENE_SIDE - height + 1))
    ink, card = int(rng.randint(0, 60)), int(rng.randint(215, 256))
    pixels[y : y + height, x : x + width] = (card * (255 - alpha) + ink * alpha + 127) // 255
    return text, (x, y, x + width, y + height)
