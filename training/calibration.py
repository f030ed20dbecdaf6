"""Measure the quality of detection scores: average precision and calibration error on drawn scenes.

python -m training.calibration BUNDLE ... --json calibration.json --figure calibration.png

The scenes are those of `training.evaluate`. The metrics need pycocotools, the figure matplotlib: both are in
the extras `dev` and `plot`.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
from PIL import Image
from tqdm import tqdm

from paligemma_onnx.runtime import Generation, PaliGemma, Request
from paligemma_onnx.runtime.detection.parsing import parse_answer
from paligemma_onnx.runtime.detection.scores import ObjectScore, answer_text, score_object
from paligemma_onnx.runtime.text.tokenizer import PromptTokenizer

from .detection_metrics import (
    AveragePrecision,
    Calibration,
    LabelledBox,
    average_precision,
    calibration,
    correct_boxes,
)
from .evaluate import HELD_OUT_SPLIT, SCENES_PER_BATCH, SEEN_SPLIT, ScenePrompt, open_model, prompts_for
from .scenes import SCENE_SIDE, Split, render_scene
from .scores import MIN_IOU
from .tasks import MAX_NEW_TOKENS

HIGH_IOU = 0.75  # the second threshold of COCO's summary


@dataclass(frozen=True)
class ScoredObject:
    """An object of an answer with the probabilities from which the rankings compute scores."""

    image: int
    label: str
    box: tuple[float, float, float, float]  # left, top, right, bottom in pixels
    score: ObjectScore
    written_locations: float  # geometric mean of the probabilities of the four location tokens


# Scores by which the objects can be ranked, by name; the first one is `Detection.score`.
RANKINGS: Mapping[str, Callable[[ScoredObject], float]] = {
    "score": lambda found: found.score.product,
    "box_score": lambda found: found.score.box,
    "label_score": lambda found: found.score.label,
    "written locations x label": lambda found: found.written_locations * found.score.label,
    "no score": lambda _found: 1.0,
}


@dataclass(frozen=True)
class Measurement:
    """Average precision and calibration of one bundle."""

    bundle_id: str | None
    precision: str
    objects: int  # in the scenes
    detections: int
    average_precision: AveragePrecision
    average_precision_by_ranking: Mapping[str, float]
    calibration: Calibration  # of `score`; a box is correct at MIN_IOU
    calibration_at_high_iou: Calibration  # of `score`; a box is correct at HIGH_IOU
    seconds: float


def detect_prompts(splits: Sequence[Split]) -> list[ScenePrompt]:
    """Return the `detect` prompts of `training.evaluate`."""
    scenes = [render_scene(seed, split.combinations) for split in splits for seed in split.seeds()]
    return [prompt for scene in scenes for prompt in prompts_for(scene) if prompt.example.kind == "detect"]


def measure(
    model: PaliGemma, prompts: Sequence[ScenePrompt], on_prompts: Callable[[int], object]
) -> Measurement:
    """Return the measurement of a model.

    Args:
        model: the model.
        prompts: `detect` prompts about scenes.
        on_prompts: called with the number of prompts answered since the previous call.
    """
    started = time.perf_counter()
    found: list[ScoredObject] = []
    for start in range(0, len(prompts), SCENES_PER_BATCH):
        batch = prompts[start : start + SCENES_PER_BATCH]
        requests = [
            Request(Image.fromarray(prompt.rendered.pixels), prompt.example.prompt) for prompt in batch
        ]
        answers = model.generate_batch(requests, max_new_tokens=MAX_NEW_TOKENS, logprobs=True)
        for number, answer in enumerate(answers, start):
            found += scored_objects(answer, model.tokenizer, number)
        on_prompts(len(batch))
    truth = [
        LabelledBox(number, parsed.label, tuple(map(float, prompt.rendered.scene.items[item].box)))  # type: ignore[arg-type]
        for number, prompt in enumerate(prompts)
        for item, parsed in zip(
            prompt.example.items, parse_answer(prompt.example.suffix).objects, strict=True
        )
    ]
    ranked = {
        name: [LabelledBox(each.image, each.label, each.box, rank(each)) for each in found]
        for name, rank in RANKINGS.items()
    }
    precisions = {name: average_precision(truth, boxes) for name, boxes in ranked.items()}
    scores = np.array([RANKINGS["score"](each) for each in found])
    return Measurement(
        bundle_id=model.manifest.bundle_id or None,
        precision=model.manifest.precision.name,
        objects=len(truth),
        detections=len(found),
        average_precision=precisions["score"],
        average_precision_by_ranking={name: result.ap for name, result in precisions.items()},
        calibration=calibration(scores, correct_boxes(truth, ranked["score"], MIN_IOU)),
        calibration_at_high_iou=calibration(scores, correct_boxes(truth, ranked["score"], HIGH_IOU)),
        seconds=time.perf_counter() - started,
    )


def scored_objects(answer: Generation, tokenizer: PromptTokenizer, image: int) -> list[ScoredObject]:
    """Return the objects of an answer that was generated with log-probabilities."""
    text, starts = answer_text(answer, tokenizer)
    objects = []
    for parsed in parse_answer(text).objects:
        score = score_object(parsed, answer, starts)
        if score is None or answer.logprobs is None:
            raise ValueError("the answer has no log-probabilities")
        first, end, *_ = parsed.positions
        locations = [
            logprob
            for position, logprob in zip(starts, answer.logprobs, strict=True)
            if first <= position < end
        ]
        written = math.exp(math.fsum(locations) / len(locations))
        box = parsed.box.pixels(SCENE_SIDE, SCENE_SIDE)
        objects.append(ScoredObject(image, parsed.label, box, score, written))
    return objects


def draw(file: Path, measurements: Sequence[Measurement]) -> None:
    """Draw reliability, number of boxes by score, and precision by recall; one line per bundle."""
    from matplotlib.figure import Figure  # noqa: PLC0415  matplotlib is an optional dependency

    figure = Figure(figsize=(13, 4), layout="constrained")
    reliability, histogram, curve = figure.subplots(1, 3)
    reliability.plot((0, 1), (0, 1), color="grey", linestyle="--", label="calibrated")
    for number, measured in enumerate(measurements):
        bins = [entry for entry in measured.calibration.bins if entry.boxes]
        error = measured.calibration.expected_calibration_error
        reliability.plot(
            [entry.mean_score for entry in bins],
            [entry.correct for entry in bins],
            marker="o",
            label=f"{measured.precision}, ECE {error:.3f}",
        )
        width = 0.08 / len(measurements)
        histogram.bar(
            [entry.lower + 0.01 + width * (number + 0.5) for entry in measured.calibration.bins],
            [entry.boxes for entry in measured.calibration.bins],
            width=width,
            label=measured.precision,
        )
        precision = measured.average_precision
        recalls = np.linspace(0, 1, len(precision.precision))
        curve.plot(recalls, precision.precision, label=f"{measured.precision}, AP {precision.ap:.3f}")
    for axes, title, x, y in (
        (reliability, f"reliability at IoU {MIN_IOU}", "mean score", "fraction of correct boxes"),
        (histogram, "boxes by score", "score", "boxes"),
        (curve, f"precision and recall at IoU {MIN_IOU}", "recall", "precision"),
    ):
        axes.set(title=title, xlabel=x, ylabel=y)
        axes.legend()
    histogram.set_yscale("log")
    figure.savefig(file, dpi=120)


def markdown_table(measurements: Sequence[Measurement]) -> str:
    """Return a Markdown table with one column per bundle."""

    def rows(measured: Measurement) -> dict[str, float]:
        precision, rankings = measured.average_precision, measured.average_precision_by_ranking
        return {
            "AP (IoU 0.5 to 0.95)": precision.ap,
            "AP at IoU 0.5": precision.ap50,
            "AP at IoU 0.75": precision.ap75,
            "calibration error (ECE), IoU 0.5": measured.calibration.expected_calibration_error,
            "calibration error (ECE), IoU 0.75": measured.calibration_at_high_iou.expected_calibration_error,
            "mean score": measured.calibration.mean_score,
            "correct boxes, IoU 0.5": measured.calibration.correct,
            "correct boxes, IoU 0.75": measured.calibration_at_high_iou.correct,
            **{f"AP ranked by {name}": ap for name, ap in rankings.items()},
        }

    columns = [rows(measured) for measured in measurements]
    lines = [
        f"| | {' | '.join(measured.precision for measured in measurements)} |",
        "|---" * (len(measurements) + 1) + "|",
        *(f"| {name} | {' | '.join(f'{column[name]:.3f}' for column in columns)} |" for name in columns[0]),
    ]
    return "\n".join(lines)


@click.command()
@click.argument(
    "models", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, file_okay=False)
)
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path), help="Also write the figures to this file."
)
@click.option("--figure", type=click.Path(path_type=Path), help="Draw the figures to this image file.")
@click.option(
    "--scenes",
    type=click.IntRange(4),
    default=SEEN_SPLIT.count + HELD_OUT_SPLIT.count,
    show_default=True,
    help="Number of scenes; a quarter of them has a held-out pair of colour and shape.",
)
def main(models: tuple[Path, ...], json_file: Path | None, figure: Path | None, scenes: int) -> None:
    """Measure average precision and calibration of MODELS, bundles or checkpoints, on drawn scenes."""
    splits = [
        Split(SEEN_SPLIT.first, scenes - scenes // 4),
        Split(HELD_OUT_SPLIT.first, scenes // 4, "held-out"),
    ]
    prompts = detect_prompts(splits)
    measurements = []
    for folder in models:
        model = open_model(folder)
        with tqdm(total=len(prompts), desc=folder.name, file=sys.stderr) as bar:
            measurements.append(measure(model, prompts, bar.update))
    click.echo(markdown_table(measurements))
    if json_file is not None:
        document = {
            "seeds": {split.combinations: [split.first, split.first + split.count] for split in splits},
            "prompts": len(prompts),
            "models": [asdict(measured) for measured in measurements],
        }
        json_file.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    if figure is not None:
        draw(figure, measurements)


if __name__ == "__main__":
    main()
