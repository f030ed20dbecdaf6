"""A detected object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .masks import Mask
from .parsing import Box


@dataclass(frozen=True)
class Detection:
    """An object in an image.

    Attributes:
        label: text that the model wrote after the box.
        box: edges as fractions of the image's sides.
        pixels: left, top, right and bottom in pixels of the image in its displayed orientation.
        mask: mask of the object. None if the task was `detect` or the model wrote no mask.
        box_score: the model's probability of the box: the geometric mean over the four edges of the
            probability of a location within 2 % of the image's side. None if the probabilities were not
            computed.
        label_score: the model's probability of the label after this box.
        score: `box_score` times `label_score`, to rank objects. It is not calibrated
            (docs/detection-scores.md).
    """

    label: str
    box: Box
    pixels: tuple[float, float, float, float]
    mask: Mask | None
    box_score: float | None = None
    label_score: float | None = None
    score: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the fields as plain data for JSON. The mask is written as COCO run lengths."""
        return {
            "label": self.label,
            "box": list(self.pixels),
            "score": self.score,
            "box_score": self.box_score,
            "label_score": self.label_score,
            "mask": None if self.mask is None else self.mask.rle,
        }
