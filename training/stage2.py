"""Stages 2 and 3: the whole model learns to answer prompts about scenes, then about crowded ones."""

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

from .loop import run, tower_share
from .pictures import pixel_values
from .prefix_lm import Batch, Ids, answer_logits, collate, loss
from .recipe import CROWD, MOST_ITEMS, Lessons, Recipe, most_items
from .rendered_dataset import Album
from .shapes import Levels
from .tasks import QUESTIONS, Example, Kind, example
from .vocabulary import COLOURS

MEASURED_AT_ONCE = 64  # pictures
LENGTH_SHARES = (0.0, 0.5, 0.86, 1.0)  # where a step's rows, sorted by length, are cut


def finetune(
    name: Literal["stage2", "stage3"],
    model: PaliGemma,
    train: Album,
    train_codes: Levels,
    held_out: Album,
    ids: Ids,
    recipe: Recipe,
    folder: Path,
) -> None:
    """Train the model in place."""
    schedule, lessons, number = {
        "stage2": (recipe.stage2, recipe.lessons2, 2),
        "stage3": (recipe.stage3, recipe.lessons3, 3),
    }[name]
    image_tokens, colours = model.config.vision_config.num_patches, _colour_ids(ids)

    items = np.array([len(scene.items) for scene in train.scenes])
    by_items = [np.flatnonzero(items <= most) for most in range(MOST_ITEMS + 1)]
    crowded = np.flatnonzero(items >= CROWD)

    def step_loss(step: int) -> Tensor:
        rng = np.random.RandomState([recipe.seed, number, step])
        many = round(lessons.crowded * schedule.pictures)
        allowed = by_items[most_items(step, lessons)]
        chosen = [
            *allowed[rng.randint(len(allowed), size=schedule.pictures - many)].tolist(),
            *crowded[rng.randint(len(crowded), size=many)].tolist(),
        ]
        with torch.set_grad_enabled(tower_share(step, schedule) > 0):
            patches = model.vision_tower(pixel_values(train.pixels[chosen]))
        features = model.multi_modal_projector(patches)
        drawn = [
            (picture, one)
            for picture, index in enumerate(chosen)
            for one in _drawn(train, train_codes, index, rng, lessons)
        ]
        # Short rows and long ones go through the model apart, so that few are padded much.
        drawn.sort(key=lambda pair: len(pair[1].suffix))
        total, weight = torch.zeros(()), torch.zeros(())
        for start, stop in pairwise(round(share * len(drawn)) for share in LENGTH_SHARES):
            part = drawn[start:stop]
            batch = collate([one for _, one in part], ids, image_tokens)
            if lessons.other_colours:
                batch = with_other_colours(batch, colours, lessons.other_colours, rng)
            logits = answer_logits(model, features[[picture for picture, _ in part]], batch)
            total = total + loss(logits, batch, ids, recipe.location_blur)
            weight = weight + batch.weights.sum()
        return total / weight

    def measure() -> Mapping[str, float]:
        return _measure(model, held_out, ids)

    run(name, folder, model, schedule, step_loss, measure)


def codes_of(album: Album, codes: Levels, index: int) -> list[list[int]]:
    """The mask codes of a scene's items."""
    first = album.first_item[index]
    listed: list[list[int]] = codes[first : first + len(album.scenes[index].items)].tolist()
    return listed


def _drawn(
    album: Album, codes: Levels, index: int, rng: np.random.RandomState, lessons: Lessons
) -> list[Example]:
    """As many examples about one scene as a step takes, of kinds that it has."""
    kinds, shares = list(lessons.kinds), np.cumsum(list(lessons.kinds.values()))
    found: list[Example] = []
    while len(found) < lessons.prompts_a_picture:
        kind = kinds[int(np.searchsorted(shares, rng.random_sample() * shares[-1], side="right"))]
        one = example(album.scenes[index], kind, rng, codes_of(album, codes, index))
        if one is not None and one not in found:
            found.append(one)
    return found


def _colour_ids(ids: Ids) -> Tensor:
    """The token of each colour behind a space: int64[COLOURS]."""
    tokens = ids.encode([f"a {colour}" for colour in COLOURS])
    return torch.tensor([text[1] for text in tokens])


def with_other_colours(batch: Batch, colours: Tensor, share: float, rng: np.random.RandomState) -> Batch:
    """In a share of the answers, let what comes next see any colour for one that was said; targets stay."""
    inputs = batch.input_ids
    rows = torch.from_numpy(rng.random_sample(len(inputs)) < share)
    answers = torch.arange(inputs.shape[1]) >= batch.prefix[:, None]
    said = torch.isin(inputs, colours) & answers & rows[:, None]
    others = colours[torch.from_numpy(rng.randint(len(colours), size=tuple(inputs.shape)))]
    return replace(batch, input_ids=torch.where(said, others, inputs))


@torch.inference_mode()
def _measure(model: PaliGemma, album: Album, ids: Ids) -> Mapping[str, float]:
    """Share of right answers and captions, and how far locations are off.

    The right answer is shown while it is predicted. For texts this is exact all the same: a text is right as
    a whole only if each of its tokens is the first choice behind the ones before it.
    """
    kinds: tuple[Kind, ...] = ("caption", "detect", *QUESTIONS)
    right: dict[Kind, list[bool]] = {kind: [] for kind in kinds}
    distance: list[Tensor] = []
    for start in range(0, len(album.scenes), MEASURED_AT_ONCE):
        chosen = range(start, min(start + MEASURED_AT_ONCE, len(album.scenes)))
        features = model.encode_image(pixel_values(album.pixels[chosen.start : chosen.stop]))
        for kind in kinds:
            drawn = [example(album.scenes[index], kind, np.random.RandomState(index)) for index in chosen]
            rows = [row for row, one in enumerate(drawn) if one is not None]
            if not rows:
                continue
            batch = collate([one for one in drawn if one is not None], ids, features.shape[1])
            said = answer_logits(model, features[rows], batch).argmax(dim=-1)
            if kind == "detect":
                distance.append(_distance(said, batch, ids))
            right[kind] += _whole(said, batch, len(rows))
    answers = [one for kind in QUESTIONS for one in right[kind]]
    return {
        "answers": float(np.mean(answers)),
        "captions": float(np.mean(right["caption"])),
        "location error": float(torch.cat(distance).mean()),
        **{f"{kind} answers": float(np.mean(right[kind])) for kind in QUESTIONS},
    }


def _whole(said: Tensor, batch: Batch, rows: int) -> list[bool]:
    wrong = torch.zeros(rows, dtype=torch.long).index_add(0, batch.rows, (said != batch.targets).long())
    whole: list[bool] = (wrong == 0).tolist()
    return whole


def _distance(said: Tensor, batch: Batch, ids: Ids) -> Tensor:
    """Of each location from the true one, as a share of the picture's side; what is no location is 1 off."""
    steps = (said - batch.targets)[ids.located(batch.targets)].abs()
    return (steps / LAST_LOCATION).clamp(max=1.0)
