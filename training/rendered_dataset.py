"""Scenes drawn beforehand: a range of seeds on disk, as the model will see them.

Drawing a scene costs as much as training on it once, so a training set is drawn once, by every processor, and
read from a memory map.

Legend: N scenes, M items of all scenes, S image side of the model in pixels.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from .masks import CROP, crop
from .scenes import Combinations, Drawing, Scene, draw
from .shapes import Levels

PIECE = 256  # scenes a process draws at a time


@dataclass(frozen=True)
class Split:
    """A range of seeds."""

    first: int
    count: int
    combinations: Combinations = "seen"

    def seeds(self) -> range:
        """Its seeds in order."""
        return range(self.first, self.first + self.count)


@dataclass(frozen=True)
class Album:
    """The scenes of a split."""

    scenes: list[Scene]
    pixels: Levels  # uint8[N, S, S, 3], mapped from disk
    crops: Levels  # uint8[M, CROP * CROP / 8], each item's mask cut to its box and packed into bits
    first_item: list[int]  # of each scene, in `crops`


def resized(drawing: Drawing, side: int) -> Levels:
    """The picture as preprocessing makes it: uint8[side, side, 3], with Pillow's bicubic filter."""
    picture = Image.fromarray(drawing.pixels).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(picture)


def open_album(folder: Path, split: Split, side: int, workers: int, drew: Callable[[int], object]) -> Album:
    """Read the album in a folder, drawing it first where it is not there.

    Args:
        folder: of albums; this one gets a folder named after its seeds and sizes.
        split: its seeds.
        side: of the model's pictures, pixels.
        workers: processes that draw.
        drew: told how many scenes have been drawn since the last call.
    """
    place = folder / f"{split.combinations}-{split.first}-{split.count}-{side}px"
    complete = place / "scenes.pickle"  # written last
    if not complete.exists():
        place.mkdir(parents=True, exist_ok=True)
        _draw_album(place, split, side, workers, drew)
    with complete.open("rb") as file:
        scenes: list[Scene] = pickle.load(file)
    first_item = [0, *accumulate(len(scene.items) for scene in scenes)]
    pixels = np.load(place / "pixels.npy", mmap_mode="r")
    return Album(scenes, pixels, np.load(place / "crops.npy"), first_item[:-1])


def _draw_album(place: Path, split: Split, side: int, workers: int, drew: Callable[[int], object]) -> None:
    shape = (split.count, side, side, 3)
    pixels = np.lib.format.open_memmap(place / "pixels.npy", mode="w+", dtype=np.uint8, shape=shape)
    scenes: list[Scene] = []
    crops: list[Levels] = []
    seeds = split.seeds()
    starts = range(seeds.start, seeds.stop, PIECE)
    pieces = [range(start, min(start + PIECE, seeds.stop)) for start in starts]
    with ProcessPoolExecutor(workers) as pool:
        drawn: Iterator[_Piece] = pool.map(partial(_draw_piece, split.combinations, side), pieces)
        for piece in drawn:
            pixels[len(scenes) : len(scenes) + len(piece[0])] = piece[1]
            scenes += piece[0]
            crops.append(piece[2])
            drew(len(piece[0]))
    pixels.flush()
    np.save(place / "crops.npy", np.concatenate(crops))
    partly = place / "scenes.partly"
    partly.write_bytes(pickle.dumps(scenes))
    partly.rename(place / "scenes.pickle")


_Piece = tuple[list[Scene], Levels, Levels]


def _draw_piece(combinations: Combinations, side: int, seeds: range) -> _Piece:
    drawings = [draw(seed, combinations) for seed in seeds]
    pixels = np.stack([resized(drawing, side) for drawing in drawings])
    crops = [
        np.packbits(crop(mask, item.box))
        for drawing in drawings
        for mask, item in zip(drawing.masks, drawing.scene.items, strict=True)
    ]
    return [drawing.scene for drawing in drawings], pixels, np.stack(crops)


def unpacked(crops: Levels) -> npt.NDArray[np.bool_]:
    """Masks from their bits: uint8[M, CROP * CROP / 8] -> bool[M, CROP, CROP]."""
    return np.unpackbits(crops, axis=1).reshape(-1, CROP, CROP).astype(np.bool_)
