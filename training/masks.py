"""A mask between its place in the picture and the square that the codes describe."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from paligemma_onnx.model.mask_decoder import SIDE as CROP  # pixels, both ways

from .scenes import Box
from .shapes import Mask

__all__ = ["CROP", "crop", "paste"]


def crop(mask: Mask, box: Box) -> Mask:
    """Cut a mask to its box and bring it to CROP x CROP: bool[H, W] -> bool[CROP, CROP]."""
    left, top, right, bottom = box
    part = Image.fromarray(mask[top:bottom, left:right].astype(np.uint8) * 255)
    return np.asarray(part.resize((CROP, CROP), Image.Resampling.BILINEAR)) >= 128


def paste(
    levels: npt.NDArray[np.float32], box: tuple[float, float, float, float], height: int, width: int
) -> Mask:
    """Put a decoded map into a picture.

    Args:
        levels: float32[CROP, CROP]; inside the mask where positive.
        box: left, top, right, bottom in pixels.
        height: of the picture, pixels.
        width: of the picture, pixels.

    Returns:
        bool[height, width].
    """
    mask = np.zeros((height, width), np.bool_)
    left, top = max(0, round(box[0])), max(0, round(box[1]))
    right, bottom = min(width, round(box[2])), min(height, round(box[3]))
    if right > left and bottom > top:
        part = Image.fromarray(levels).resize((right - left, bottom - top), Image.Resampling.BILINEAR)
        mask[top:bottom, left:right] = np.asarray(part) > 0
    return mask
