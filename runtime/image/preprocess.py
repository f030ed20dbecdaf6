"""From a picture of any mode to the numbers the vision encoder takes.

The numbers equal, bit for bit, those of transformers' `SiglipImageProcessorPil`, except that grey values
of more than 8 bits are scaled where Pillow's conversion, used there, clips them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..errors import ImageError

RESCALE = 1 / 255  # takes a uint8 level to [0, 1]; the `rescale_factor` of SigLIP's image processor

# The level that means white, by mode. Where two are customary the smaller that holds every pixel is meant:
# Pillow keeps 8-bit and 16-bit grey in mode I, and float pictures come as [0, 1] or as [0, 255].
_WHITE_LEVELS = {"I;16": (65535,), "I": (255, 65535), "F": (1, 255)}
_PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}


def to_rgb(image: Image.Image, name: str) -> Image.Image:
    """A new picture of mode RGB; `image`, of any Pillow mode, stays as it is, and `name` goes into errors.

    Transparent pixels are laid over white, so the colour hidden under alpha 0 never shows (the reference
    does the same). 16-bit grey becomes round(255 v / 65535). Colour profiles are ignored, as in the
    reference.

    Raises ImageError where the mode has no conversion, or deep grey values lie outside the ranges accepted.
    """
    try:
        rgb = _convert(image, name)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # Pillow raises a different class for each mode and each bad `info` entry
        raise ImageError(f"{name}: a picture of mode {image.mode} cannot be converted to RGB") from error
    rgb.info = {}  # a stale EXIF orientation or transparency would be applied a second time
    return rgb


def _convert(image: Image.Image, name: str) -> Image.Image:
    white_levels = _WHITE_LEVELS.get(image.mode[:4])  # "I;16" also stands for I;16L, I;16B and I;16N
    if white_levels is not None:
        return _deep_grey_to_8_bit(image, white_levels, name).convert("RGB")
    if image.mode in _PREMULTIPLIED:
        image = image.convert(_PREMULTIPLIED[image.mode])
    if not image.has_transparency_data:
        return image.convert("RGB")
    # Pillow writes the alpha into the palette of the picture it converts, so it is given a copy.
    rgba = (image.copy() if image.mode == "P" else image).convert("RGBA")
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, rgba).convert("RGB")


def _deep_grey_to_8_bit(image: Image.Image, white_levels: tuple[int, ...], name: str) -> Image.Image:
    levels = np.asarray(image)
    lowest, highest = levels.min(), levels.max()  # both NaN where any level is
    white = next((white for white in white_levels if lowest >= 0 and highest <= white), None)
    if white is None:
        accepted = " or ".join(f"0 to {level}" for level in white_levels)
        raise ImageError(
            f"{name}: a picture of mode {image.mode} must hold levels of {accepted}, none of them NaN, "
            f"not {lowest} to {highest}; scale it first"
        )
    # float32 is exact enough: 255 v / 65535 = v / 257 is never nearer than 1/514 to a rounding boundary.
    grey = np.rint(levels.astype(np.float32) * np.float32(255 / white)).astype(np.uint8)
    transparent = image.info.get("transparency")  # one grey level of a 16-bit PNG
    if isinstance(transparent, int):
        grey[levels == transparent] = 255
    return Image.fromarray(grey)


def preprocess(
    rgb: Image.Image,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    rescale: float = RESCALE,
) -> npt.NDArray[np.float32]:
    """Pixel values float32[3, S, S] of an RGB picture, S = `size` in pixels.

    Bicubic to S x S on uint8 levels, the aspect not kept, then (level * rescale - mean) / std by channel.
    Raises ImageError where `rgb` is of another mode, ValueError where mean or std do not hold 3 numbers.
    """
    if rgb.mode != "RGB":
        raise ImageError(f"preprocess takes a picture of mode RGB, not {rgb.mode}; open it with open_image")
    levels = np.asarray(rgb.resize((size, size), Image.Resampling.BICUBIC))
    # A resized level is one of 256, so all arithmetic is done once per level. Its precision is the
    # reference's: the product in float64, rounded to float32; the rest in float32.
    unit = (np.arange(256, dtype=np.float64) * rescale).astype(np.float32)
    pixel_values = np.empty((3, size, size), dtype=np.float32)
    for channel, (centre, spread) in enumerate(zip(mean, std, strict=True)):
        table = (unit - np.float32(centre)) / np.float32(spread)
        np.take(table, levels[..., channel], out=pixel_values[channel])
    return pixel_values
