"""Scores a bundle or a checkpoint on scenes that training has not seen.

python -m training.evaluate BUNDLE_OR_CHECKPOINT --json scores.json
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from PIL import Image
from tqdm import tqdm

from paligemma_onnx.export.validation.torch_runner import open_torch_model
from paligemma_onnx.runtime import PaliGemma, Request
from paligemma_onnx.runtime.bundle.manifest import MANIFEST
from paligemma_onnx.runtime.bundle.schema import SEG_TOKENS_PER_MASK
from paligemma_onnx.runtime.detection.detections import detections

from .rendered_dataset import Split
from .scenes import Drawing, draw
from .scores import Outcome, outcome, summary
from .tasks import MOST_NEW_TOKENS, QUESTIONS, Example, Kind, example

# 1,000 scenes in all, of seeds that neither training nor its measurements use.
SEEN = Split(10_000_000, 750)
HELD_OUT = Split(11_000_000, 250, "held-out")
MASK_PROMPT = [
    [0] * SEG_TOKENS_PER_MASK
] * 5  # true codes are not known here, and masks are compared as masks
PICTURES = 24  # asked about together
# Prompts whose answers are of like length go together: a batch takes as long as its longest answer.
TOGETHER: tuple[tuple[Kind, ...], ...] = (QUESTIONS, ("caption", "detect"), ("segment",))


Scores = Mapping[str, Mapping[str, float | int | None]]  # a column of figures for each set of scenes


@dataclass(frozen=True)
class Asked:
    """A prompt about a scene."""

    drawing: Drawing
    example: Example


def prompts_for(drawing: Drawing) -> list[Asked]:
    """One prompt of each kind that the scene has, the same at every evaluation."""
    kinds: tuple[Kind, ...] = ("caption", "detect", "segment", *QUESTIONS)
    rng = np.random.RandomState(drawing.scene.seed)
    found = [example(drawing.scene, kind, rng, MASK_PROMPT) for kind in kinds]
    return [Asked(drawing, one) for one in found if one is not None]


def evaluate(model: PaliGemma, split: Split, asked: Callable[[int], object]) -> list[Outcome]:
    """Ask about every scene of a split.

    Args:
        model: to ask.
        split: the scenes.
        asked: told how many scenes have been asked about since the last call.

    Raises:
        BundleError: the model has no mask decoder.
    """
    outcomes: list[Outcome] = []
    every = split.seeds()
    for start in range(0, len(every), PICTURES):
        seeds = every[start : start + PICTURES]
        prompts = [one for seed in seeds for one in prompts_for(draw(seed, split.combinations))]
        for kinds in TOGETHER:
            chosen = [one for one in prompts if one.example.kind in kinds]
            pictures = [Image.fromarray(one.drawing.pixels) for one in chosen]
            prompted = zip(pictures, chosen, strict=True)
            requests = [Request(picture, one.example.prompt) for picture, one in prompted]
            answers = model.generate_batch(requests, max_new_tokens=MOST_NEW_TOKENS)
            for picture, one, answer in zip(pictures, chosen, answers, strict=True):
                masks = one.example.kind == "segment"
                found = detections(answer, picture, model.runner, masks=masks)
                outcomes.append(outcome(one.drawing, one.example, answer.text, found))
        asked(len(seeds))
    return outcomes


def open_model(folder: Path) -> PaliGemma:
    """A bundle behind onnxruntime, or a checkpoint behind our torch model."""
    return PaliGemma.load(folder, device="auto") if (folder / MANIFEST).exists() else open_torch_model(folder)


def report(seen: Sequence[Outcome], held_out: Sequence[Outcome]) -> Scores:
    """Scores on all scenes, on those without and on those with a held-out combination."""
    return {
        "all": summary([*seen, *held_out]),
        "seen combinations": summary(seen),
        "held-out combinations": summary(held_out),
    }


def table(scores: Scores) -> str:
    """The same as Markdown."""

    def rows() -> Iterator[str]:
        yield f"| | {' | '.join(scores)} |"
        yield "|---" * (len(scores) + 1) + "|"
        for name in next(iter(scores.values())):
            yield f"| {name} | {' | '.join(_shown(column[name]) for column in scores.values())} |"

    return "\n".join(rows())


def _shown(value: float | int | None) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the scores here, too.")
@click.option("--scenes", type=click.IntRange(4), default=SEEN.count + HELD_OUT.count, show_default=True)
def main(model: Path, json_file: Path | None, scenes: int) -> None:
    """Score MODEL, a bundle or a checkpoint, on held-out scenes; a quarter has a held-out combination."""
    splits = [Split(SEEN.first, scenes - scenes // 4), Split(HELD_OUT.first, scenes // 4, "held-out")]
    started = time.perf_counter()
    opened = open_model(model)
    with tqdm(total=scenes, desc="scenes", file=sys.stderr) as bar:
        seen, held_out = (evaluate(opened, split, bar.update) for split in splits)
    scores = report(seen, held_out)
    click.echo(table(scores))
    if json_file is not None:
        document = {
            "model": model.name,
            "bundle_id": opened.manifest.bundle_id or None,
            "precision": opened.manifest.recipe.precision,
            "seeds": {split.combinations: [split.first, split.first + split.count] for split in splits},
            "seconds": round(time.perf_counter() - started, 1),
            "scores": scores,
        }
        json_file.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
