"""Average precision and calibration of scored boxes.

Average precision is COCO's, computed by pycocotools. A box is correct if it has the label of an object with
which its IoU is at least MIN_IOU, and no box with a higher score matches this object.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from .scores import MIN_IOU, box_iou

BINS = 10  # of equal width from 0 to 1


@dataclass(frozen=True)
class LabelledBox:
    """An object of an image, or a detection of one, whose score then is not None."""

    image: int
    label: str
    box: tuple[float, float, float, float]  # left, top, right, bottom in pixels
    score: float | None = None


@dataclass(frozen=True)
class AveragePrecision:
    """COCO's average precision: means over labels and, for `ap`, over IoU thresholds from 0.5 to 0.95."""

    ap: float
    ap50: float
    ap75: float
    precision: tuple[float, ...]  # at IoU 0.5 and recall 0, 0.01, ..., 1, mean over labels


@dataclass(frozen=True)
class Bin:
    """The boxes whose scores lie in one interval."""

    lower: float
    upper: float
    boxes: int
    mean_score: float | None  # None if the bin is empty
    correct: float | None  # fraction


@dataclass(frozen=True)
class Calibration:
    """Agreement of the scores with the fraction of correct boxes."""

    expected_calibration_error: float  # mean over boxes of |mean score - fraction correct| of the box's bin
    mean_score: float
    correct: float  # fraction
    bins: tuple[Bin, ...]


def average_precision(truth: Sequence[LabelledBox], found: Sequence[LabelledBox]) -> AveragePrecision:
    """Return the average precision of scored boxes."""
    labels = sorted({entry.label for entry in (*truth, *found)})
    images = sorted({entry.image for entry in (*truth, *found)})
    header = {
        "images": [{"id": image} for image in images],
        "categories": [{"id": number} for number in range(len(labels))],
    }

    def coco(entries: Sequence[LabelledBox]) -> COCO:
        annotations = []
        for number, entry in enumerate(entries, start=1):
            left, top, right, bottom = entry.box
            size = (right - left, bottom - top)
            annotations.append(
                {
                    "id": number,
                    "image_id": entry.image,
                    "category_id": labels.index(entry.label),
                    "bbox": [left, top, *size],
                    "area": size[0] * size[1],
                    "iscrowd": 0,
                    "score": entry.score,
                }
            )
        database = COCO()
        database.dataset = {**header, "annotations": annotations}
        database.createIndex()
        return database

    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        evaluation = COCOeval(coco(truth), coco(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    ap, ap50, ap75 = (float(value) for value in evaluation.stats[:3])
    # float64[thresholds, recalls, labels, area ranges, limits of detections]; -1 for a label without objects
    at_half = evaluation.eval["precision"][0, :, :, 0, -1]
    known = at_half[:, at_half[0] > -1]
    return AveragePrecision(ap, ap50, ap75, tuple(float(value) for value in known.mean(axis=1)))


def correct_boxes(
    truth: Sequence[LabelledBox], found: Sequence[LabelledBox], min_iou: float = MIN_IOU
) -> npt.NDArray[np.bool_]:
    """Return for each found box whether it is correct. Boxes with higher scores choose their object first."""
    correct = np.zeros(len(found), np.bool_)
    taken: set[int] = set()
    for index in sorted(range(len(found)), key=lambda number: -(found[number].score or 0.0)):
        box = found[index]
        overlaps = [
            (box_iou(entry.box, box.box), number)
            for number, entry in enumerate(truth)
            if number not in taken and (entry.image, entry.label) == (box.image, box.label)
        ]
        overlap, number = max(overlaps, default=(0.0, -1))
        if overlap >= min_iou:
            taken.add(number)
            correct[index] = True
    return correct


def calibration(scores: npt.NDArray[np.float64], correct: npt.NDArray[np.bool_]) -> Calibration:
    """Compare scores, float64[boxes] from 0 to 1, with whether the boxes are correct, bool[boxes]."""
    numbers = np.minimum((scores * BINS).astype(np.int64), BINS - 1)
    bins, error = [], 0.0
    for number in range(BINS):
        inside = numbers == number
        count = int(inside.sum())
        mean = float(scores[inside].mean()) if count else None
        fraction = float(correct[inside].mean()) if count else None
        if mean is not None and fraction is not None:
            error += count / len(scores) * abs(mean - fraction)
        bins.append(Bin(number / BINS, (number + 1) / BINS, count, mean, fraction))
    return Calibration(error, float(scores.mean()), float(correct.mean()), tuple(bins))
