"""Scores of answers about scenes: exact match of texts, IoU of boxes and masks.

`objects` counts the objects that a prompt asks for, `detections` the objects in the answer. IoU is the area
of the intersection over the area of the union.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from paligemma_onnx.runtime import Detection
from paligemma_onnx.runtime.detection.parsing import parse_answer

from .scenes import SCENE_SIDE, RenderedScene
from .shapes import Mask
from .tasks import QUESTIONS, Example

# IoU from which a box counts as found, as in PASCAL VOC (doi 10.1007/s11263-009-0275-4, section 4.2).
MIN_IOU = 0.5


@dataclass(frozen=True)
class Score:
    """Comparison of one answer with the correct one, in numbers that can be summed over answers."""

    kind: str
    about_held_out: bool  # True if the answer is about an object of a held-out pair of colour and shape
    correct: bool  # True if the text equals the correct one
    objects: int = 0
    detections: int = 0
    hits: int = 0  # matched pairs with equal labels and an IoU of at least MIN_IOU
    box_iou: float = 0.0  # sum over objects; 0 for an object that was missed
    mask_iou: float = 0.0  # sum over objects; 0 for an object that was missed or has no mask


def score_answer(
    rendered: RenderedScene, example: Example, text: str, detections: Sequence[Detection]
) -> Score:
    """Compare an answer with its scene.

    Args:
        rendered: the scene.
        example: the prompt and the correct answer.
        text: the model's answer.
        detections: the objects in it; only read if the prompt is of kind "detect" or "segment".
    """
    items = [rendered.scene.items[index] for index in example.items]
    held_out, correct = any(item.is_held_out for item in items), text == example.suffix
    if example.kind not in ("detect", "segment"):
        return Score(example.kind, held_out, correct)
    labels = [item.label for item in parse_answer(example.suffix).objects]
    shape = (len(items), len(detections))
    overlaps = np.array(
        [[box_iou(item.box, detection.pixels) for detection in detections] for item in items]
    ).reshape(shape)
    labels_agree = np.array(
        [[label == detection.label for detection in detections] for label in labels]
    ).reshape(shape)
    pairs = match_boxes(overlaps * labels_agree)
    masks = 0.0
    if example.kind == "segment":
        predicted = [_scene_mask(detection) for detection in detections]
        masks = sum(
            mask_iou(rendered.masks[example.items[item]], predicted[detection]) for item, detection in pairs
        )
    return Score(
        example.kind,
        held_out,
        correct,
        objects=len(items),
        detections=len(detections),
        hits=sum(bool(overlaps[pair] >= MIN_IOU) for pair in pairs),
        box_iou=float(sum(overlaps[pair] for pair in pairs)),
        mask_iou=masks,
    )


def match_boxes(overlaps: npt.NDArray[np.float64]) -> list[tuple[int, int]]:
    """Match objects with detections greedily, the largest overlap first, each at most once.

    Args:
        overlaps: float64[objects, detections].

    Returns:
        Pairs (object, detection) of indices, without pairs that do not overlap.
    """
    remaining, pairs = overlaps.copy(), []
    while remaining.size and remaining.max() > 0:
        item, detection = divmod(int(remaining.argmax()), remaining.shape[1])
        pairs.append((item, detection))
        remaining[item], remaining[:, detection] = 0, 0
    return pairs


def box_iou(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    """Return the IoU of two boxes (left, top, right, bottom)."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    intersection = max(0.0, width) * max(0.0, height)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return intersection / (sum(areas) - intersection)


def mask_iou(a: Mask, b: Mask) -> float:
    """Return the IoU of two masks of equal shape."""
    return float((a & b).sum() / (a | b).sum())


def _scene_mask(detection: Detection) -> Mask:
    """Return a detection's mask in the scene, empty if it has none: bool[SCENE_SIDE, SCENE_SIDE]."""
    if detection.mask is None:
        return np.zeros((SCENE_SIDE, SCENE_SIDE), np.bool_)
    return detection.mask.array


def summarize(scores: Sequence[Score]) -> dict[str, float | int | None]:
    """Summarize scores as named metrics; a metric without any prompts is None."""
    kinds = {score.kind for score in scores}
    by_kind = {kind: [score for score in scores if score.kind == kind] for kind in kinds}
    answers = [score for score in scores if score.kind in QUESTIONS]
    detect, segment = by_kind.get("detect", []), by_kind.get("segment", [])
    objects = sum(score.objects for score in detect)
    detections = sum(score.detections for score in detect)
    # A surplus detection counts as a missed object.
    masks = sum(max(score.objects, score.detections) for score in segment)
    return {
        "prompts": len(scores),
        "answers": _accuracy(answers),
        **{f"answers: {kind}": _accuracy(by_kind.get(kind, [])) for kind in QUESTIONS},
        "answers about held-out": _accuracy([score for score in answers if score.about_held_out]),
        "captions": _accuracy(by_kind.get("caption", [])),
        "detection F1 at IoU 0.5": _ratio(2 * sum(score.hits for score in detect), objects + detections),
        "detection mean IoU": _ratio(sum(score.box_iou for score in detect), objects),
        "mask mean IoU": _ratio(sum(score.mask_iou for score in segment), masks),
    }


def _accuracy(scores: Sequence[Score]) -> float | None:
    return _ratio(sum(score.correct for score in scores), len(scores))


def _ratio(numerator: float, denominator: float) -> float | None:
    return round(numerator / denominator, 4) if denominator else None
