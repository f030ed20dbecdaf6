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
        label: what the model wrote after the box.
        box: edges as fractions of the image's sides.
        pixels: left, top, right and bottom in pixels of the image in its displayed orientation.
        mask: None if the model wrote no mask, or the task was `detect`.
    """

    label: str
    box: Box
    pixels: tuple[float, float, float, float]
    mask: Mask | None

    def as_json(self) -> dict[str, Any]:
        """Return plain data for JSON; the mask as COCO run lengths."""
        return {
            "label": self.label,
            "box": list(self.pixels),
            "mask": None if self.mask is None else self.mask.rle,
        }
