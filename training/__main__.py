"""From nothing to the shipped model, in one command that may be stopped and started again."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click
import numpy as np
import torch
from tokenizers import Tokenizer
from tqdm import tqdm

from .checkpoint import write_model
from .initialization import fresh_model, whiten_patches
from .mask_codes import MaskAutoencoder, mean_iou, train_mask_autoencoder
from .pictures import pixel_values
from .prefix_lm import Ids
from .recipe import FULL, IMAGE_SIDE, SMOKE, Recipe, without_stage1
from .rendered_dataset import Album, Split, open_album
from .shapes import Levels
from .stage1 import pretrain
from .stage2 import finetune
from .tokenizer import train_tokenizer


@click.command()
@click.option(
    "--output", type=click.Path(path_type=Path), required=True, help="Folder of the run; goes on there."
)
@click.option(
    "--albums", type=click.Path(path_type=Path), help="Folder of drawn scenes.  [default: OUTPUT/albums]"
)
@click.option(
    "--recipe", type=click.Choice(["full", "smoke"]), default="full", help="smoke: a minute or two, no more."
)
@click.option("--stage1/--no-stage1", default=True, help="Contrastive pretraining of the vision tower.")
@click.option("--threads", type=click.IntRange(1), help="[default: all processors]")
def main(output: Path, albums: Path | None, recipe: str, stage1: bool, threads: int | None) -> None:
    """Train the shipped model: scenes, tokenizer, masks, stage 1, stage 2; the checkpoint is OUTPUT/model."""
    workers = threads or len(os.sched_getaffinity(0))
    torch.set_num_threads(workers)
    train({"full": FULL, "smoke": SMOKE}[recipe], output, albums or output / "albums", workers, stage1=stage1)


def train(recipe: Recipe, output: Path, albums: Path, workers: int, *, stage1: bool) -> Path:
    """Run a recipe; what an earlier run has finished is not done again.

    Returns:
        The folder of the checkpoint.
    """
    output.mkdir(parents=True, exist_ok=True)
    seen = _album(albums, recipe.train, workers)
    held_out = _album(albums, recipe.held_out, workers)
    tokenizer = _tokenizer(output / "tokenizer.json", seen, recipe)
    ids = Ids.of(tokenizer)
    masks = _masks(output / "masks.pt", seen, recipe)
    print(f"masks: mean IoU of what codes decode to {mean_iou(masks, held_out.crops):.4f}", file=sys.stderr)
    codes = _codes(output / "codes.npy", masks, seen)

    config = recipe.config(ids.image)
    torch.manual_seed(recipe.seed)
    model = fresh_model(config, ids.first_location)
    whiten_patches(model, pixel_values(seen.pixels[: recipe.whitening_scenes]))
    if stage1:
        pretrain(model.vision_tower, config, seen, held_out, ids, recipe, output)
    else:
        recipe = without_stage1(recipe)
    finetune("stage2", model, seen, codes, held_out, ids, recipe, output)
    finetune("stage3", model, seen, codes, held_out, ids, recipe, output)
    write_model(output / "model", model, tokenizer, masks.decoder)
    return output / "model"


def _album(folder: Path, split: Split, workers: int) -> Album:
    with tqdm(total=split.count, desc=f"scenes from {split.first}", file=sys.stderr, leave=False) as bar:
        return open_album(folder, split, IMAGE_SIDE, workers, bar.update)


def _tokenizer(path: Path, seen: Album, recipe: Recipe) -> Tokenizer:
    if not path.exists():
        train_tokenizer(seen.scenes[: recipe.tokenizer_scenes]).save(str(path))
    return Tokenizer.from_file(str(path))


def _masks(path: Path, seen: Album, recipe: Recipe) -> MaskAutoencoder:
    """The trained mask autoencoder; trained first where it is not there."""
    if path.exists():
        model = MaskAutoencoder(recipe.masks)
        model.load_state_dict(torch.load(path, weights_only=True))
        return model.eval()
    last = min(recipe.mask_scenes, len(seen.scenes) - 1)
    with tqdm(total=recipe.masks.steps, desc="masks", file=sys.stderr, mininterval=5.0) as bar:

        def step_done(loss: float) -> None:
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update()

        model = train_mask_autoencoder(
            seen.crops[: seen.first_item[last]], recipe.masks, recipe.seed, step_done
        )
    partly = path.with_suffix(".partly")
    torch.save(model.state_dict(), partly)
    partly.rename(path)
    return model


def _codes(path: Path, masks: MaskAutoencoder, album: Album) -> Levels:
    if not path.exists():
        partly = path.with_suffix(".partly.npy")
        np.save(partly, masks.encode(album.crops))
        partly.rename(path)
    codes: Levels = np.load(path)
    return codes


if __name__ == "__main__":
    main()
