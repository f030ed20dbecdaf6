"""A decoded mask in its picture: as an array, as a PNG, and as COCO's run lengths.

Legend: H height and W width of the picture in pixels.
"""

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
    """Which pixels of a picture belong to an object; computed when it is asked for."""

    levels: NDArray[np.float32] = field(repr=False)  # float32[64, 64], of the box; positive inside
    box: Box
    width: int  # W
    height: int  # H

    @property
    def array(self) -> NDArray[np.bool_]:
        """bool[H, W]."""
        return paste(self.levels, self.box.pixels(self.width, self.height), self.height, self.width)

    @property
    def png(self) -> bytes:
        """A PNG file of W x H pixels and one bit a pixel, white inside."""
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
    """Bring a decoded map to the size of its box and put it there.

    Args:
        levels: float32[64, 64]; inside the mask where positive.
        box: left, top, right, bottom in pixels.
        height: H.
        width: W.

    Returns:
        bool[H, W].
    """
    mask = np.zeros((height, width), np.bool_)
    left, top = max(0, round(box[0])), max(0, round(box[1]))
    right, bottom = min(width, round(box[2])), min(height, round(box[3]))
    if right > left and bottom > top:
        part = Image.fromarray(levels).resize((right - left, bottom - top), Image.Resampling.BILINEAR)
        mask[top:bottom, left:right] = np.asarray(part) > 0
    return mask
