"""Stage 1: contrastive pretraining of the vision tower on scenes, objects and printed texts.

Two scenes nearly always differ in a colour or a position, so a tower that only has to match scenes with
descriptions never learns shapes or letters. It therefore also matches each object with its phrase and each
printed text with itself.

Shapes: docs/notation.md and contrastive_model.py.
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

from .contrastive_model import ContrastiveModel, ImageBatch, TextBatch, TextTower
from .loop import run_stage
from .prefix_lm import TrainingTokenizer
from .recipe import Recipe
from .rendered_dataset import RenderedDataset, pixel_values
from .scenes import SCENE_SIDE, Item, Scene
from .tasks import make_description, object_phrase, sign_phrase

MEASURED_SCENES = 256  # held-out scenes
METRICS = ("scenes found", "objects found", "prints found")  # columns of stage1.csv


def pretrain(
    vision: VisionTower,
    config: PaliGemmaConfig,
    train: RenderedDataset,
    held_out: RenderedDataset,
    tokenizer: TrainingTokenizer,
    recipe: Recipe,
    folder: Path,
) -> None:
    """Train the vision tower in place; the text tower and the pooling heads are discarded.

    Args:
        vision: the vision tower.
        config: sizes of the whole model.
        train: scenes to train on.
        held_out: scenes for measurements.
        tokenizer: encodes the texts.
        recipe: hyperparameters.
        folder: for the log and the state.
    """
    sizes = config.vision_config
    torch.manual_seed(recipe.seed + 1)
    text_tower = TextTower(
        config.text_config.vocab_size,
        recipe.text_tokens,
        recipe.text_width,
        recipe.text_layers,
        sizes.hidden_size,
    )
    model = ContrastiveModel(vision, sizes, text_tower)
    grid = sizes.image_size // sizes.patch_size
    measured = held_out.scenes[:MEASURED_SCENES]

    def step_loss(step: int) -> Tensor:
        rng = np.random.RandomState([recipe.seed, 1, step])
        indices = rng.randint(len(train.scenes), size=recipe.stage1.images).tolist()
        scenes = [train.scenes[index] for index in indices]
        images = image_batch(pixel_values(train.pixels[indices]), scenes, grid)
        return model.loss(images, text_batch(scenes, tokenizer, recipe.text_tokens), recipe.text_chunk)

    def measure() -> Mapping[str, float]:
        images = image_batch(pixel_values(held_out.pixels[: len(measured)]), measured, grid)
        accuracy = model.accuracy(images, text_batch(measured, tokenizer, recipe.text_tokens))
        return dict(zip(METRICS, accuracy, strict=True))

    run_stage("stage1", folder, model, recipe.stage1, step_loss, measure)


def image_batch(pixels: Tensor, scenes: Sequence[Scene], grid: int) -> ImageBatch:
    """Combine images with the positions of their objects and printed texts.

    Args:
        pixels: float[M, 3, S, S].
        scenes: one per image.
        grid: patches per row and column of an image.
    """
    items = [(image, item) for image, scene in enumerate(scenes) for item in scene.items]
    return ImageBatch(
        pixels,
        torch.tensor([image for image, _ in items]),
        torch.from_numpy(np.stack([patch_shares(item, grid) for _, item in items])),
        torch.tensor([image for image, scene in enumerate(scenes) if scene.sign is not None]),
    )


def patch_shares(item: Item, grid: int) -> npt.NDArray[np.float32]:
    """Return the share of an item's box in each patch, row by row: float32[grid * grid] with sum 1."""
    edges = np.arange(grid + 1) * (SCENE_SIDE / grid)
    left, top, right, bottom = item.box
    across = (np.minimum(edges[1:], right) - np.maximum(edges[:-1], left)).clip(min=0) / (right - left)
    down = (np.minimum(edges[1:], bottom) - np.maximum(edges[:-1], top)).clip(min=0) / (bottom - top)
    shares: npt.NDArray[np.float32] = np.outer(down, across).flatten().astype(np.float32)
    return shares


def text_batch(scenes: Sequence[Scene], tokenizer: TrainingTokenizer, tokens: int) -> TextBatch:
    """Encode the distinct descriptions, phrases and printed texts of scenes.

    Args:
        scenes: the scenes of a batch.
        tokenizer: encodes the texts.
        tokens: length to which texts are padded or cut.
    """
    descriptions = _distinct([make_description(scene) for scene in scenes], tokenizer, tokens)
    phrases = _distinct([object_phrase(item) for scene in scenes for item in scene.items], tokenizer, tokens)
    signs = _distinct(
        [sign_phrase(scene.sign) for scene in scenes if scene.sign is not None], tokenizer, tokens
    )
    groups = (descriptions, phrases, signs)
    ids, targets = zip(*groups, strict=True)
    return TextBatch(ids, targets)


def _distinct(texts: Sequence[str], tokenizer: TrainingTokenizer, tokens: int) -> tuple[Tensor, Tensor]:
    """Return the ids of the distinct texts, int64[texts, tokens], and the row of each text."""
    rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    ids = torch.full((len(rows), tokens), tokenizer.pad)
    for row, encoded in zip(ids, tokenizer.encode(list(rows)), strict=True):
        row[: len(encoded[:tokens])] = torch.tensor(encoded[:tokens])
    return ids, torch.tensor([rows[text] for text in texts])
