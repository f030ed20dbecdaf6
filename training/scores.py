"""How well answers agree with scenes: exact texts, boxes by overlap, masks by overlap.

Legend: G objects that are there, P objects that were said, IoU area of the overlap over area of the union.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from paligemma_onnx.runtime import Detection
from paligemma_onnx.runtime.detection.parsing import parse_answer

from .scenes import SIDE, Box, Drawing
from .shapes import Mask
from .tasks import QUESTIONS, Example

HIT = (
    0.5  # IoU from which a box counts as found, as in PASCAL VOC (doi 10.1007/s11263-009-0275-4, section 4.2)
)


@dataclass(frozen=True)
class Outcome:
    """One prompt, its true answer and the one that was given, as figures that add up."""

    kind: str
    about_held_out: bool  # an object in question is of a pair of colour and shape that training never showed
    right: bool  # the text is the true one to the letter
    there: int = 0  # G
    said: int = 0  # P
    hits: int = 0  # of the pairs, those whose boxes overlap by HIT and whose labels agree
    box_iou: float = 0.0  # sum over G; 0 for an object that was missed
    mask_iou: float = 0.0  # the same of masks


def outcome(drawing: Drawing, example: Example, text: str, said: Sequence[Detection]) -> Outcome:
    """Compare an answer, and the objects in it, with the scene."""
    items = [drawing.scene.items[index] for index in example.items]
    held_out, right = any(item.is_held_out for item in items), text == example.suffix
    if example.kind not in ("detect", "segment"):
        return Outcome(example.kind, held_out, right)
    labels = [found.label for found in parse_answer(example.suffix).found]
    boxes = [found.pixels for found in said]
    overlaps = np.array([[box_iou(item.box, box) for box in boxes] for item in items]).reshape(
        len(items), len(boxes)
    )
    agree = np.array([[label == found.label for found in said] for label in labels]).reshape(overlaps.shape)
    pairs = matched(overlaps * agree)
    masks = 0.0
    if example.kind == "segment":
        painted = [_painted(found) for found in said]
        masks = sum(mask_iou(drawing.masks[example.items[item]], painted[found]) for item, found in pairs)
    return Outcome(
        example.kind,
        held_out,
        right,
        there=len(items),
        said=len(said),
        hits=sum(bool(overlaps[pair] >= HIT) for pair in pairs),
        box_iou=float(sum(overlaps[pair] for pair in pairs)),
        mask_iou=masks,
    )


def matched(overlaps: npt.NDArray[np.float64]) -> list[tuple[int, int]]:
    """Pair objects with what was said, the best overlap first, each once: float64[G, P] -> their numbers."""
    left, pairs = overlaps.copy(), []
    while left.size and left.max() > 0:
        item, found = divmod(int(left.argmax()), left.shape[1])
        pairs.append((item, found))
        left[item], left[:, found] = 0, 0
    return pairs


def box_iou(one: Box, other: tuple[float, float, float, float]) -> float:
    """Overlap of two rectangles, each left, top, right and bottom."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(0.0, width) * max(0.0, height)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return both / (sum(areas) - both)


def mask_iou(one: Mask, other: Mask) -> float:
    """Overlap of two masks of one size."""
    return float((one & other).sum() / (one | other).sum())


def _painted(found: Detection) -> Mask:
    """An object's mask in the scene; empty for an object without one."""
    return np.zeros((SIDE, SIDE), np.bool_) if found.mask is None else found.mask.array


def summary(outcomes: Sequence[Outcome]) -> dict[str, float | int | None]:
    """The figures of a set of outcomes; None where nothing was asked."""
    of = {kind: [one for one in outcomes if one.kind == kind] for kind in {one.kind for one in outcomes}}
    answers = [one for one in outcomes if one.kind in QUESTIONS]
    detected, segmented = of.get("detect", []), of.get("segment", [])
    there, said = (sum(getattr(one, name) for one in detected) for name in ("there", "said"))
    masks = sum(max(one.there, one.said) for one in segmented)
    return {
        "prompts": len(outcomes),
        "answers": _share(answers),
        **{f"answers: {kind}": _share(of.get(kind, [])) for kind in QUESTIONS},
        "answers about held-out": _share([one for one in answers if one.about_held_out]),
        "captions": _share(of.get("caption", [])),
        "detection F1 at IoU 0.5": _ratio(2 * sum(one.hits for one in detected), there + said),
        "detection mean IoU": _ratio(sum(one.box_iou for one in detected), there),
        # An object too many counts as one that was missed.
        "mask mean IoU": _ratio(sum(one.mask_iou for one in segmented), masks),
    }


def _share(outcomes: Sequence[Outcome]) -> float | None:
    return _ratio(sum(one.right for one in outcomes), len(outcomes))


def _ratio(part: float, whole: float) -> float | None:
    return round(part / whole, 4) if whole else None
