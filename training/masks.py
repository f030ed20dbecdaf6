"""A mask between its place in the picture and the square that the codes describe."""

from __future__ import annotations

import numpy as np
from PIL import Image

from paligemma_onnx.model.mask_decoder import SIDE as CROP  # pixels, both ways
from paligemma_onnx.runtime.detection.masks import paste

from .scenes import Box
from .shapes import Mask

__all__ = ["CROP", "crop", "paste"]


def crop(mask: Mask, box: Box) -> Mask:
    """Cut a mask to its box and bring it to CROP x CROP: bool[H, W] -> bool[CROP, CROP]."""
    left, top, right, bottom = box
    part = Image.fromarray(mask[top:bottom, left:right].astype(np.uint8) * 255)
    return np.asarray(part.resize((CROP, CROP), Image.Resampling.BILINEAR)) >= 128
