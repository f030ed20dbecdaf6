"""Train the shipped model from scratch; the command can be stopped and restarted at any time."""

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
from .initialization import initial_model, whiten_patches
from .mask_codes import MaskAutoencoder, mean_iou, train_mask_autoencoder
from .prefix_lm import TrainingTokenizer
from .recipe import FULL, IMAGE_SIDE, SMOKE, Recipe, without_stage1
from .rendered_dataset import RenderedDataset, open_dataset, pixel_values
from .scenes import Split
from .shapes import UInt8Array
from .stage1 import pretrain
from .stage2 import finetune
from .tokenizer import train_tokenizer
from .training_state import write_atomically


@click.command()
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of the run; an interrupted run in it is continued.",
)
@click.option(
    "--albums",
    "datasets",
    type=click.Path(path_type=Path),
    help="Folder of rendered scenes, shared by runs.  [default: OUTPUT/albums]",
)
@click.option(
    "--recipe",
    type=click.Choice(["full", "smoke"]),
    default="full",
    show_default=True,
    help="full: the shipped model; smoke: a test of one to two minutes.",
)
@click.option(
    "--stage1/--no-stage1",
    default=True,
    help="Contrastive pretraining of the vision tower.",
    show_default=True,
)
@click.option("--threads", type=click.IntRange(1), help="Number of threads.  [default: all processors]")
def main(output: Path, datasets: Path | None, recipe: str, stage1: bool, threads: int | None) -> None:
    """Train the tokenizer, the mask autoencoder and the model, and write the checkpoint to OUTPUT/model."""
    workers = threads or len(os.sched_getaffinity(0))
    torch.set_num_threads(workers)
    folder = datasets or output / "albums"
    train({"full": FULL, "smoke": SMOKE}[recipe], output, folder, workers, stage1=stage1)


def train(recipe: Recipe, output: Path, datasets: Path, workers: int, *, stage1: bool) -> Path:
    """Run a recipe; steps that an earlier run has finished are not repeated.

    Args:
        recipe: hyperparameters.
        output: folder of the run.
        datasets: folder of rendered scenes.
        workers: number of rendering processes.
        stage1: pretrain the vision tower.

    Returns:
        The folder of the checkpoint.
    """
    output.mkdir(parents=True, exist_ok=True)
    train_set = _open_dataset(datasets, recipe.train, workers)
    held_out = _open_dataset(datasets, recipe.held_out, workers)
    hf_tokenizer = _open_tokenizer(output / "tokenizer.json", train_set, recipe)
    tokenizer = TrainingTokenizer.from_tokenizer(hf_tokenizer)
    masks = _open_mask_autoencoder(output / "masks.pt", train_set, recipe)
    iou = mean_iou(masks, held_out.packed_masks)
    print(f"masks: mean IoU of {iou:.4f} between held-out masks and their reconstructions", file=sys.stderr)
    codes = _open_codes(output / "codes.npy", masks, train_set)

    config = recipe.config(tokenizer.image)
    torch.manual_seed(recipe.seed)
    model = initial_model(config, tokenizer.first_location)
    whiten_patches(model, pixel_values(train_set.pixels[: recipe.whitening_scenes]))
    if stage1:
        pretrain(model.vision_tower, config, train_set, held_out, tokenizer, recipe, output)
    else:
        recipe = without_stage1(recipe)
    finetune("stage2", model, train_set, codes, held_out, tokenizer, recipe, output)
    finetune("stage3", model, train_set, codes, held_out, tokenizer, recipe, output)
    write_model(output / "model", model, hf_tokenizer, masks.decoder)
    return output / "model"


def _open_dataset(folder: Path, split: Split, workers: int) -> RenderedDataset:
    with tqdm(total=split.count, desc=f"scenes from {split.first}", file=sys.stderr, leave=False) as bar:
        return open_dataset(folder, split, IMAGE_SIDE, workers, bar.update)


def _open_tokenizer(path: Path, dataset: RenderedDataset, recipe: Recipe) -> Tokenizer:
    if not path.exists():
        train_tokenizer(dataset.scenes[: recipe.tokenizer_scenes]).save(str(path))
    return Tokenizer.from_file(str(path))


def _open_mask_autoencoder(path: Path, dataset: RenderedDataset, recipe: Recipe) -> MaskAutoencoder:
    """Load the mask autoencoder; train it first if the file does not exist."""
    if path.exists():
        model = MaskAutoencoder(recipe.masks)
        model.load_state_dict(torch.load(path, weights_only=True))
        return model.eval()
    last_scene = min(recipe.mask_scenes, len(dataset.scenes) - 1)
    packed = dataset.packed_masks[: dataset.first_item[last_scene]]
    with tqdm(total=recipe.masks.steps, desc="masks", file=sys.stderr, mininterval=5.0) as bar:

        def on_step(loss: float) -> None:
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update()

        model = train_mask_autoencoder(packed, recipe.masks, recipe.seed, on_step)
    write_atomically(path, lambda partial: torch.save(model.state_dict(), partial))
    return model


def _open_codes(path: Path, masks: MaskAutoencoder, dataset: RenderedDataset) -> UInt8Array:
    """Load the mask codes of a dataset, uint8[items of all scenes, 16]; compute them first if needed."""
    if not path.exists():
        write_atomically(path, lambda partial: np.save(partial, masks.encode(dataset.packed_masks)))
    codes: UInt8Array = np.load(path)
    return codes


if __name__ == "__main__":
    main()
