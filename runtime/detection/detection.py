"""One detected object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .masks import Mask
from .parsing import Box


@dataclass(frozen=True)
class Detection:
    """One object."""

    label: str
    box: Box  # in shares of the picture
    pixels: tuple[float, float, float, float]  # left, top, right, bottom, of the displayed picture
    mask: Mask | None  # None where none was written

    def as_json(self) -> dict[str, Any]:
        """Plain data; the mask as COCO's run lengths."""
        return {
            "label": self.label,
            "box": list(self.pixels),
            "mask": None if self.mask is None else self.mask.rle,
        }
