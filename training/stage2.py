"""Stages 2 and 3: training of the whole model on prompts about scenes, first of all kinds, then crowded ones.

Shapes: docs/notation.md and prefix_lm.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from paligemma_onnx.model.paligemma import PaliGemma
from paligemma_onnx.runtime.text.special_tokens import LAST_LOCATION

from .loop import run_stage, tower_rate_share
from .prefix_lm import Batch, TrainingTokenizer, answer_logits, answer_loss, collate
from .recipe import MAX_OBJECTS, MIN_CROWDED, Curriculum, Recipe, max_objects_at
from .rendered_dataset import RenderedDataset, pixel_values
from .shapes import UInt8Array
from .tasks import QUESTIONS, Example, Kind, make_example
from .vocabulary import COLOURS

MEASURE_BATCH = 64  # images per batch in measurements
LENGTH_QUANTILES = (0.0, 0.5, 0.86, 1.0)  # where the rows of a step, sorted by length, are split into batches


def finetune(
    name: Literal["stage2", "stage3"],
    model: PaliGemma,
    train: RenderedDataset,
    train_codes: UInt8Array,
    held_out: RenderedDataset,
    tokenizer: TrainingTokenizer,
    recipe: Recipe,
    folder: Path,
) -> None:
    """Train the model in place.

    Args:
        name: the stage.
        model: the whole model.
        train: scenes to train on.
        train_codes: uint8[items of all scenes, 16], their mask codes.
        held_out: scenes for measurements.
        tokenizer: encodes prompts and answers.
        recipe: hyperparameters.
        folder: for the log and the state.
    """
    schedule, curriculum, number = {
        "stage2": (recipe.stage2, recipe.stage2_curriculum, 2),
        "stage3": (recipe.stage3, recipe.stage3_curriculum, 3),
    }[name]
    image_tokens, colours = model.config.vision_config.num_patches, colour_ids(tokenizer)

    counts = np.array([len(scene.items) for scene in train.scenes])
    # Indices of the scenes with at most 0, 1, 2, ... objects.
    scenes_up_to = [np.flatnonzero(counts <= limit) for limit in range(MAX_OBJECTS + 1)]
    crowded = np.flatnonzero(counts >= MIN_CROWDED)

    def step_loss(step: int) -> Tensor:
        rng = np.random.RandomState([recipe.seed, number, step])
        crowded_images = round(curriculum.crowded * schedule.images)
        allowed = scenes_up_to[max_objects_at(step, curriculum)]
        indices = [
            *allowed[rng.randint(len(allowed), size=schedule.images - crowded_images)].tolist(),
            *crowded[rng.randint(len(crowded), size=crowded_images)].tolist(),
        ]
        with torch.set_grad_enabled(tower_rate_share(step, schedule) > 0):
            patches = model.vision_tower(pixel_values(train.pixels[indices]))
        features = model.multi_modal_projector(patches)
        examples = [
            (image, example)
            for image, index in enumerate(indices)
            for example in _draw_examples(train, train_codes, index, rng, curriculum)
        ]
        # Batches of similar length need little padding.
        examples.sort(key=lambda pair: len(pair[1].suffix))
        total, weight = torch.zeros(()), torch.zeros(())
        for start, stop in pairwise(round(quantile * len(examples)) for quantile in LENGTH_QUANTILES):
            images, rows = zip(*examples[start:stop], strict=True)
            batch = collate(rows, tokenizer, image_tokens)
            if curriculum.replaced_colours:
                batch = replace_colours(batch, colours, curriculum.replaced_colours, rng)
            logits = answer_logits(model, features[list(images)], batch)
            total = total + answer_loss(logits, batch, tokenizer, recipe.location_std)
            weight = weight + batch.weights.sum()
        return total / weight

    def measure() -> Mapping[str, float]:
        return _measure(model, held_out, tokenizer)

    run_stage(name, folder, model, schedule, step_loss, measure)


def _draw_examples(
    dataset: RenderedDataset,
    codes: UInt8Array,
    index: int,
    rng: np.random.RandomState,
    curriculum: Curriculum,
) -> list[Example]:
    """Draw `curriculum.prompts_per_image` different examples about a scene."""
    scene, first = dataset.scenes[index], dataset.first_item[index]
    mask_tokens: list[list[int]] = codes[first : first + len(scene.items)].tolist()
    kinds, cumulative = list(curriculum.kinds), np.cumsum(list(curriculum.kinds.values()))
    examples: list[Example] = []
    while len(examples) < curriculum.prompts_per_image:
        kind = kinds[int(np.searchsorted(cumulative, rng.random_sample() * cumulative[-1], side="right"))]
        example = make_example(scene, kind, rng, mask_tokens)
        if example is not None and example not in examples:
            examples.append(example)
    return examples


def colour_ids(tokenizer: TrainingTokenizer) -> Tensor:
    """Return the id of each colour's name with a space before it: int64[colours]."""
    encoded = tokenizer.encode([f"a {colour}" for colour in COLOURS])
    return torch.tensor([ids[1] for ids in encoded])


def replace_colours(batch: Batch, colours: Tensor, share: float, rng: np.random.RandomState) -> Batch:
    """Replace the colours in the input of a share of the answers by random ones; targets stay unchanged.

    Args:
        batch: a batch of examples.
        colours: int64[colours], ids of the colours' names.
        share: probability of each row, 0 to 1.
        rng: chooses rows and colours.
    """
    ids = batch.input_ids
    rows = torch.from_numpy(rng.random_sample(len(ids)) < share)
    is_answer = torch.arange(ids.shape[1]) >= batch.prefix[:, None]
    replaced = torch.isin(ids, colours) & is_answer & rows[:, None]
    random_colours = colours[torch.from_numpy(rng.randint(len(colours), size=tuple(ids.shape)))]
    return replace(batch, input_ids=torch.where(replaced, random_colours, ids))


@torch.inference_mode()
def _measure(model: PaliGemma, dataset: RenderedDataset, tokenizer: TrainingTokenizer) -> Mapping[str, float]:
    """Return the shares of correct answers and captions, and the mean error of locations.

    The logits are computed with the correct answer as input. For whole texts this gives the same result as
    greedy generation: an answer is correct only if each token is the most likely one after the correct
    tokens before it.
    """
    kinds: tuple[Kind, ...] = ("caption", "detect", *QUESTIONS)
    correct: dict[Kind, list[bool]] = {kind: [] for kind in kinds}
    location_errors: list[Tensor] = []
    for start in range(0, len(dataset.scenes), MEASURE_BATCH):
        indices = range(start, min(start + MEASURE_BATCH, len(dataset.scenes)))
        features = model.encode_image(pixel_values(dataset.pixels[indices.start : indices.stop]))
        for kind in kinds:
            drawn = [make_example(dataset.scenes[i], kind, np.random.RandomState(i)) for i in indices]
            examples = {image: example for image, example in enumerate(drawn) if example is not None}
            if not examples:
                continue
            batch = collate(list(examples.values()), tokenizer, features.shape[1])
            predicted = answer_logits(model, features[list(examples)], batch).argmax(dim=-1)
            if kind == "detect":
                location_errors.append(_location_errors(predicted, batch, tokenizer))
            correct[kind] += _correct_rows(predicted, batch, len(examples))
    answers = [is_correct for kind in QUESTIONS for is_correct in correct[kind]]
    return {
        "answers": float(np.mean(answers)),
        "captions": float(np.mean(correct["caption"])),
        "location error": float(torch.cat(location_errors).mean()),
        **{f"{kind} answers": float(np.mean(correct[kind])) for kind in QUESTIONS},
    }


def _correct_rows(predicted: Tensor, batch: Batch, rows: int) -> list[bool]:
    """Return for each row whether all of its targets are predicted: int64[targets] -> `rows` values."""
    wrong_tokens = (predicted != batch.targets).long()
    wrong = torch.zeros(rows, dtype=torch.long).index_add(0, batch.rows, wrong_tokens)
    correct: list[bool] = (wrong == 0).tolist()
    return correct


def _location_errors(predicted: Tensor, batch: Batch, tokenizer: TrainingTokenizer) -> Tensor:
    """Return the distance of each predicted location from the true one, as a share of the image side.

    The error is at most 1, also where the predicted token is not a location.

    Args:
        predicted: int64[targets].
        batch: the batch with the targets.
        tokenizer: determines which targets are locations.

    Returns:
        float32[location targets].
    """
    offsets = (predicted - batch.targets)[tokenizer.is_location(batch.targets)].abs()
    return (offsets / LAST_LOCATION).clamp(max=1.0)
