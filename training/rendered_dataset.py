"""Datasets of rendered scenes on disk, one per range of seeds.

Rendering a scene takes about as long as training on it once, so each dataset is rendered once, by all
processors, and then read from a memory map.
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
import torch
from PIL import Image
from torch import Tensor

from .mask_codes import crop_mask
from .scenes import Combinations, Scene, Split, render_scene
from .shapes import UInt8Array
from .training_state import write_atomically

CHUNK = 256  # scenes that a process renders per task
# Dtype of activations in training. With bfloat16 matrix products in hardware, a step takes a third of the
# time; weights, norms, losses and optimizer states stay in float32.
ACTIVATION_DTYPE = torch.bfloat16


@dataclass(frozen=True)
class RenderedDataset:
    """The rendered scenes of a split."""

    scenes: list[Scene]
    pixels: UInt8Array  # uint8[scenes, S, S, 3], memory-mapped, read-only
    packed_masks: UInt8Array  # uint8[items of all scenes, 512], 64 x 64 masks of the boxes, 8 pixels per byte
    first_item: list[int]  # index in `packed_masks` of each scene's first item


def pixel_values(pixels: UInt8Array) -> Tensor:
    """Convert images to the vision tower's input: uint8[M, S, S, 3] -> bfloat16[M, 3, S, S] in [-1, 1]."""
    levels = torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2)  # a copy: torch warns of read-only arrays
    return (levels.float() / 127.5 - 1).to(ACTIVATION_DTYPE)


def resize_image(pixels: UInt8Array, side: int) -> UInt8Array:
    """Resize an image as the model's preprocessing does, with Pillow's bicubic filter.

    Args:
        pixels: uint8[height, width, 3].
        side: S, in pixels.

    Returns:
        uint8[S, S, 3].
    """
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))


def open_dataset(
    parent: Path, split: Split, side: int, workers: int, on_rendered: Callable[[int], object]
) -> RenderedDataset:
    """Open the dataset of a split; render it first if it is not on disk.

    Args:
        parent: folder of all datasets; this one is in a subfolder named after its split and image side.
        split: the seeds.
        side: S, side of the stored images in pixels.
        workers: number of rendering processes.
        on_rendered: called with the number of scenes rendered since the previous call.
    """
    folder = parent / f"{split.combinations}-{split.first}-{split.count}-{side}px"
    scenes_file = folder / "scenes.pickle"  # written last, so it marks a complete dataset
    if not scenes_file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        scenes = _render_dataset(folder, split, side, workers, on_rendered)
        write_atomically(scenes_file, lambda file: file.write_bytes(pickle.dumps(scenes)))
    with scenes_file.open("rb") as file:
        scenes = pickle.load(file)
    first_item = [0, *accumulate(len(scene.items) for scene in scenes)][:-1]
    pixels = np.load(folder / "pixels.npy", mmap_mode="r")
    return RenderedDataset(scenes, pixels, np.load(folder / "crops.npy"), first_item)


def _render_dataset(
    folder: Path, split: Split, side: int, workers: int, on_rendered: Callable[[int], object]
) -> list[Scene]:
    """Write pixels.npy and crops.npy and return the scenes."""
    shape = (split.count, side, side, 3)
    pixels = np.lib.format.open_memmap(folder / "pixels.npy", mode="w+", dtype=np.uint8, shape=shape)
    scenes: list[Scene] = []
    packed_masks: list[UInt8Array] = []
    seeds = split.seeds()
    chunks = [seeds[start : start + CHUNK] for start in range(0, len(seeds), CHUNK)]
    with ProcessPoolExecutor(workers) as pool:
        results: Iterator[_Chunk] = pool.map(partial(_render_chunk, split.combinations, side), chunks)
        for chunk_scenes, chunk_pixels, chunk_masks in results:
            pixels[len(scenes) : len(scenes) + len(chunk_scenes)] = chunk_pixels
            scenes += chunk_scenes
            packed_masks.append(chunk_masks)
            on_rendered(len(chunk_scenes))
    pixels.flush()
    np.save(folder / "crops.npy", np.concatenate(packed_masks))
    return scenes


_Chunk = tuple[list[Scene], UInt8Array, UInt8Array]  # scenes, pixels, packed masks


def _render_chunk(combinations: Combinations, side: int, seeds: range) -> _Chunk:
    rendered = [render_scene(seed, combinations) for seed in seeds]
    pixels = np.stack([resize_image(scene.pixels, side) for scene in rendered])
    masks = [
        np.packbits(crop_mask(mask, item.box))
        for scene in rendered
        for mask, item in zip(scene.masks, scene.scene.items, strict=True)
    ]
    return [scene.scene for scene in rendered], pixels, np.stack(masks)
