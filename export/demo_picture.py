"""The demo's picture: what was found, drawn over the scene."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw

from paligemma_onnx.model.mask_decoder import MaskDecoder
from paligemma_onnx.runtime.boxes import Found

ZOOM = 3  # scenes are small
INK = ((230, 25, 75), (0, 90, 220), (0, 130, 60), (145, 30, 180))  # RGB of the objects in turn
VEIL = 110  # of 255: how much of a mask's colour covers the scene
LINE = 3  # pixels


def marked(scene: Image.Image, found: Sequence[Found], masks: MaskDecoder) -> Image.Image:
    """The scene, enlarged, with a box and a label for each object and a veil over each mask."""
    picture = scene.resize((scene.width * ZOOM, scene.height * ZOOM), Image.Resampling.LANCZOS)
    for index, one in enumerate(found):
        ink = INK[index % len(INK)]
        left, top, right, bottom = (round(edge) for edge in one.box.pixels(picture.width, picture.height))
        if one.codes is not None and right > left and bottom > top:
            with torch.inference_mode():
                levels = masks(torch.tensor([one.codes]))[0].numpy()
            shape = Image.fromarray(levels).resize((right - left, bottom - top), Image.Resampling.BILINEAR)
            veil = Image.fromarray((np.asarray(shape) > 0).astype(np.uint8) * VEIL)
            picture.paste(Image.new("RGB", veil.size, ink), (left, top), veil)
        draw = ImageDraw.Draw(picture)
        draw.rectangle((left, top, right, bottom), outline=ink, width=LINE)
        label = draw.textbbox((left + LINE, top), one.label, font_size=18)
        draw.rectangle(label, fill=ink)
        draw.text((left + LINE, top), one.label, fill="white", font_size=18)
    return picture
