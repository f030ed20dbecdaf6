"""A decoded mask at its position in the image: as an array, as a PNG file, and as COCO run lengths."""

from __future__ import annotations

import io
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .parsing import Box
from .rle import RunLengths, encode


@dataclass(frozen=True, eq=False)
class Mask:
    """The pixels of an image that belong to an object. Each access to a property computes its value again.

    Attributes:
        levels: float32[64, 64], the mask decoder's output for the box. Values inside the object are positive.
        box: rectangle of the image that the mask covers.
        width: pixels of the image in its displayed orientation.
        height: pixels of the image in its displayed orientation.
    """

    levels: NDArray[np.float32] = field(repr=False)
    box: Box
    width: int
    height: int

    @property
    def array(self) -> NDArray[np.bool_]:
        """bool[height, width], True inside the object."""
        return paste(self.levels, self.box.pixels(self.width, self.height), self.height, self.width)

    @property
    def png(self) -> bytes:
        """A PNG file of width x height pixels with one bit per pixel, white inside the object."""
        file = io.BytesIO()
        Image.fromarray(self.array).save(file, "PNG")
        return file.getvalue()

    @property
    def rle(self) -> RunLengths:
        """COCO's compressed run lengths, as `pycocotools.mask` reads them."""
        return encode(self.array)


def paste(
    levels: NDArray[np.float32], box: tuple[float, float, float, float], height: int, width: int
) -> NDArray[np.bool_]:
    """Resize a decoded mask to its box and place it in the image.

    Args:
        levels: float32[64, 64]. Values inside the object are positive.
        box: left, top, right, bottom in pixels.
        height: pixels of the image.
        width: pixels of the image.

    Returns:
        bool[height, width], True inside the object.
    """
    mask = np.zeros((height, width), np.bool_)
    left, top = max(0, round(box[0])), max(0, round(box[1]))
    right, bottom = min(width, round(box[2])), min(height, round(box[3]))
    if right > left and bottom > top:
        resized = Image.fromarray(levels).resize((right - left, bottom - top), Image.Resampling.BILINEAR)
        mask[top:bottom, left:right] = np.asarray(resized) > 0
    return mask
