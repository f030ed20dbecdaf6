"""Stage 1: the vision tower learns to tell which text belongs to which scene, object and print.

Two scenes nearly always differ in some colour or place, so a tower that is only asked which description
belongs to a scene never looks at shapes or letters. It is therefore also asked which of the different phrases
belongs to each object, and which print to each scene that has any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from paligemma_onnx.model.config import PaliGemmaConfig
from paligemma_onnx.model.siglip import VisionTower

from .contrastive_model import Contrast, Seen, Texts, TextTower
from .loop import run
from .pictures import pixel_values
from .prefix_lm import Ids
from .recipe import Recipe
from .rendered_dataset import Album
from .scenes import SIDE, Item, Scene
from .tasks import described, description, printed

MEASURED = 256  # held-out scenes


def pretrain(
    vision: VisionTower,
    config: PaliGemmaConfig,
    train: Album,
    held_out: Album,
    ids: Ids,
    recipe: Recipe,
    folder: Path,
) -> None:
    """Train the tower in place; the rest of what stage 1 needs is thrown away."""
    size = config.vision_config
    torch.manual_seed(recipe.seed + 1)
    text = TextTower(
        config.text_config.vocab_size,
        recipe.text_tokens,
        recipe.text_width,
        recipe.text_layers,
        size.hidden_size,
    )
    model = Contrast(vision, size, text)
    grid = size.image_size // size.patch_size
    measured = held_out.scenes[:MEASURED]

    def step_loss(step: int) -> Tensor:
        rng = np.random.RandomState([recipe.seed, 1, step])
        chosen = rng.randint(len(train.scenes), size=recipe.stage1.pictures).tolist()
        scenes = [train.scenes[index] for index in chosen]
        seen = look(pixel_values(train.pixels[chosen]), scenes, grid)
        return model.loss(seen, texts_of(scenes, ids, recipe.text_tokens), recipe.captions_at_once)

    def measure() -> Mapping[str, float]:
        seen = look(pixel_values(held_out.pixels[: len(measured)]), measured, grid)
        found = model.found(seen, texts_of(measured, ids, recipe.text_tokens))
        return dict(zip(("scenes found", "objects found", "prints found"), found, strict=True))

    run("stage1", folder, model, recipe.stage1, step_loss, measure)


def look(pixels: Tensor, scenes: Sequence[Scene], grid: int) -> Seen:
    """Where the objects and prints of scenes are, on a grid x grid of patches."""
    items = [(picture, item) for picture, scene in enumerate(scenes) for item in scene.items]
    return Seen(
        pixels,
        torch.tensor([picture for picture, _ in items]),
        torch.from_numpy(np.stack([area(item, grid) for _, item in items])),
        torch.tensor([picture for picture, scene in enumerate(scenes) if scene.sign is not None]),
    )


def area(item: Item, grid: int) -> npt.NDArray[np.float32]:
    """The share of an item's box that lies in each patch, row by row: float32[grid * grid], its sum 1."""
    edges = np.arange(grid + 1) * (SIDE / grid)
    left, top, right, bottom = item.box
    across = (np.minimum(edges[1:], right) - np.maximum(edges[:-1], left)).clip(min=0) / (right - left)
    down = (np.minimum(edges[1:], bottom) - np.maximum(edges[:-1], top)).clip(min=0) / (bottom - top)
    shares: npt.NDArray[np.float32] = np.outer(down, across).flatten().astype(np.float32)
    return shares


def texts_of(scenes: Sequence[Scene], ids: Ids, tokens: int) -> Texts:
    """Descriptions, phrases and prints, each different one once, with whose they are."""
    groups = (
        [description(scene) for scene in scenes],
        [described(item) for scene in scenes for item in scene.items],
        [printed(scene.sign) for scene in scenes if scene.sign is not None],
    )
    different = [list(dict.fromkeys(group)) for group in groups]
    numbers = [{text: number for number, text in enumerate(texts)} for texts in different]
    own = [
        torch.tensor([number[text] for text in group]) for group, number in zip(groups, numbers, strict=True)
    ]
    rows = [_padded(ids.encode(texts), ids.pad, tokens) for texts in different]
    return Texts((rows[0], rows[1], rows[2]), (own[0], own[1], own[2]))


def _padded(texts: Sequence[Sequence[int]], pad: int, tokens: int) -> Tensor:
    """Ids padded or cut to one length: int64[C, L]."""
    rows = torch.full((len(texts), tokens), pad)
    for row, text in zip(rows, texts, strict=True):
        row[: len(text[:tokens])] = torch.tensor(text[:tokens])
    return rows
