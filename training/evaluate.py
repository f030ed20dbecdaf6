"""Score a bundle or a checkpoint on scenes that were not used in training.

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

from .recipe import MAX_OBJECTS
from .scenes import RenderedScene, Split, render_scene
from .scores import Score, score_answer, summarize
from .tasks import KINDS, MAX_NEW_TOKENS, QUESTIONS, Example, Kind, make_example

# 1,000 scenes with seeds that are used neither in training nor in its measurements.
SEEN_SPLIT = Split(10_000_000, 750)
HELD_OUT_SPLIT = Split(11_000_000, 250, "held-out")
# `segment` prompts are made without the correct mask tokens, because the scores compare decoded masks.
PLACEHOLDER_MASKS = [[0] * SEG_TOKENS_PER_MASK] * MAX_OBJECTS
SCENES_PER_BATCH = 24
# Kinds whose answers have similar lengths share a batch, because a batch takes as long as its longest answer.
KIND_GROUPS: tuple[tuple[Kind, ...], ...] = (QUESTIONS, ("caption", "detect"), ("segment",))

Metrics = Mapping[str, float | int | None]


@dataclass(frozen=True)
class ScenePrompt:
    """A prompt about a rendered scene."""

    rendered: RenderedScene
    example: Example


def prompts_for(rendered: RenderedScene) -> list[ScenePrompt]:
    """Return one prompt of each kind that the scene has, the same in every evaluation."""
    rng = np.random.RandomState(rendered.scene.seed)
    examples = [make_example(rendered.scene, kind, rng, PLACEHOLDER_MASKS) for kind in KINDS]
    return [ScenePrompt(rendered, example) for example in examples if example is not None]


def evaluate(model: PaliGemma, split: Split, on_scenes: Callable[[int], object]) -> list[Score]:
    """Score the answers to the prompts of every scene of a split.

    Args:
        model: the model to score.
        split: the scenes.
        on_scenes: called with the number of scenes scored since the previous call.

    Raises:
        BundleError: the model has no mask decoder.
    """
    scores: list[Score] = []
    seeds = split.seeds()
    for start in range(0, len(seeds), SCENES_PER_BATCH):
        batch = seeds[start : start + SCENES_PER_BATCH]
        scene_prompts = [
            prompt for seed in batch for prompt in prompts_for(render_scene(seed, split.combinations))
        ]
        for kinds in KIND_GROUPS:
            prompts = [prompt for prompt in scene_prompts if prompt.example.kind in kinds]
            images = [Image.fromarray(prompt.rendered.pixels) for prompt in prompts]
            requests = [
                Request(image, prompt.example.prompt) for image, prompt in zip(images, prompts, strict=True)
            ]
            answers = model.generate_batch(requests, max_new_tokens=MAX_NEW_TOKENS)
            for image, prompt, answer in zip(images, prompts, answers, strict=True):
                has_masks = prompt.example.kind == "segment"
                objects = detections(answer, image, model.runner, model.tokenizer, masks=has_masks)
                scores.append(score_answer(prompt.rendered, prompt.example, answer.text, objects))
        on_scenes(len(batch))
    return scores


def open_model(folder: Path) -> PaliGemma:
    """Open a bundle with onnxruntime, or a checkpoint with the torch model."""
    return PaliGemma.load(folder, device="auto") if (folder / MANIFEST).exists() else open_torch_model(folder)


def report(seen: Sequence[Score], held_out: Sequence[Score]) -> Mapping[str, Metrics]:
    """Summarize the scores of all scenes, and of scenes without and with a held-out pair."""
    return {
        "all": summarize([*seen, *held_out]),
        "seen combinations": summarize(seen),
        "held-out combinations": summarize(held_out),
    }


def markdown_table(columns: Mapping[str, Metrics]) -> str:
    """Format metrics as a Markdown table with one column per set of scenes."""

    def rows() -> Iterator[str]:
        yield f"| | {' | '.join(columns)} |"
        yield "|---" * (len(columns) + 1) + "|"
        for name in next(iter(columns.values())):
            yield f"| {name} | {' | '.join(_format(metrics[name]) for metrics in columns.values())} |"

    return "\n".join(rows())


def _format(value: float | int | None) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path), help="Also write the scores to this file."
)
@click.option(
    "--scenes",
    type=click.IntRange(4),
    default=SEEN_SPLIT.count + HELD_OUT_SPLIT.count,
    show_default=True,
    help="Number of scenes; a quarter of them has a held-out pair of colour and shape.",
)
def main(model: Path, json_file: Path | None, scenes: int) -> None:
    """Score MODEL, a bundle or a checkpoint, on scenes that were not used in training."""
    held_out_scenes = scenes // 4
    splits = [
        Split(SEEN_SPLIT.first, scenes - held_out_scenes),
        Split(HELD_OUT_SPLIT.first, held_out_scenes, "held-out"),
    ]
    started = time.perf_counter()
    opened = open_model(model)
    with tqdm(total=scenes, desc="scenes", file=sys.stderr) as bar:
        seen, held_out = (evaluate(opened, split, bar.update) for split in splits)
    scores = report(seen, held_out)
    click.echo(markdown_table(scores))
    if json_file is not None:
        document = {
            "model": model.name,
            "bundle_id": opened.manifest.bundle_id or None,
            "precision": opened.manifest.precision.name,
            "seeds": {split.combinations: [split.first, split.first + split.count] for split in splits},
            "seconds": round(time.perf_counter() - started, 1),
            "scores": scores,
        }
        json_file.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
