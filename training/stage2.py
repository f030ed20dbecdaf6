"""Stage 2: the whole model learns to answer prompts about scenes."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from paligemma_onnx.model.paligemma import PaliGemma
from paligemma_onnx.runtime.boxes import LAST_LOCATION

from .album import Album
from .loop import run, tower_share
from .pictures import pixel_values
from .prefix_lm import Batch, Ids, answer_logits, collate, loss
from .recipe import MOST_ITEMS, Recipe, most_items
from .shapes import Levels
from .tasks import QUESTIONS, Example, Kind, example

MEASURED_AT_ONCE = 64  # pictures
LENGTH_SHARES = (0.0, 0.5, 0.86, 1.0)  # where a step's rows, sorted by length, are cut


def finetune(
    model: PaliGemma,
    train: Album,
    train_codes: Levels,
    held_out: Album,
    ids: Ids,
    recipe: Recipe,
    folder: Path,
) -> None:
    """Train the model in place."""
    schedule, image_tokens = recipe.stage2, model.config.vision_config.num_patches

    by_items = [
        np.flatnonzero([len(scene.items) <= most for scene in train.scenes]) for most in range(MOST_ITEMS + 1)
    ]

    def step_loss(step: int) -> Tensor:
        rng = np.random.RandomState([recipe.seed, 2, step])
        allowed = by_items[most_items(step, recipe)]
        chosen = allowed[rng.randint(len(allowed), size=schedule.pictures)].tolist()
        with torch.set_grad_enabled(tower_share(step, schedule) > 0):
            patches = model.vision_tower(pixel_values(train.pixels[chosen]))
        features = model.multi_modal_projector(patches)
        drawn = [
            (picture, one)
            for picture, index in enumerate(chosen)
            for one in _drawn(train, train_codes, index, rng, recipe)
        ]
        # Short rows and long ones go through the model apart, so that few are padded much.
        drawn.sort(key=lambda pair: len(pair[1].suffix))
        total, weight = torch.zeros(()), torch.zeros(())
        for start, stop in pairwise(round(share * len(drawn)) for share in LENGTH_SHARES):
            part = drawn[start:stop]
            batch = collate([one for _, one in part], ids, image_tokens)
            logits = answer_logits(model, features[[picture for picture, _ in part]], batch)
            total = total + loss(logits, batch, ids, recipe.location_blur)
            weight = weight + batch.weights.sum()
        return total / weight

    def measure() -> Mapping[str, float]:
        return _measure(model, held_out, ids)

    run("stage2", folder, model, schedule, step_loss, measure)


def codes_of(album: Album, codes: Levels, index: int) -> list[list[int]]:
    """The mask codes of a scene's items."""
    first = album.first_item[index]
    listed: list[list[int]] = codes[first : first + len(album.scenes[index].items)].tolist()
    return listed


def _drawn(
    album: Album, codes: Levels, index: int, rng: np.random.RandomState, recipe: Recipe
) -> list[Example]:
    """As many examples about one scene as a step takes, of kinds that it has."""
    kinds, shares = list(recipe.kinds), np.cumsum(list(recipe.kinds.values()))
    found: list[Example] = []
    while len(found) < recipe.prompts_a_picture:
        kind = kinds[int(np.searchsorted(shares, rng.random_sample() * shares[-1], side="right"))]
        one = example(album.scenes[index], kind, rng, codes_of(album, codes, index))
        if one is not None and one not in found:
            found.append(one)
    return found


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
