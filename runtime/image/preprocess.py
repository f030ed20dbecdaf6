"""Conversion of an image of any mode to the pixel values of the vision encoder.

The values equal those of transformers' `SiglipImageProcessorPil` bit for bit, except for grey levels of more
than 8 bits. This module scales such levels; in transformers, Pillow's conversion clips them.

Shapes: docs/notation.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..errors import ImageError

RESCALE = 1 / 255  # maps a uint8 level to [0, 1]; `rescale_factor` of SigLIP's image processor

# The levels that white may have, by mode. Pillow keeps 8-bit and 16-bit grey in mode I, and float images have
# the range [0, 1] or [0, 255]. If a mode has two levels, white is the smaller level that no pixel exceeds.
_WHITE_LEVELS = {"I;16": (65535,), "I": (255, 65535), "F": (1, 255)}
_PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}


def to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Return a new image of mode RGB; `image` is not modified.

    Transparent pixels are composited over white, so the colour hidden under alpha 0 never shows. A 16-bit
    grey level v becomes round(255 v / 65535). Colour profiles are ignored. The
    reference, transformers' `SiglipImageProcessorPil`, does the same except for 16-bit grey.

    Args:
        image: an image of any Pillow mode.
        name: the image's name in messages.

    Raises:
        ImageError: the mode cannot be converted, or levels of mode I or F are outside the accepted ranges.
    """
    try:
        rgb = _convert(image, name)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # Pillow raises a different class for each mode and each bad `info` entry
        raise ImageError(f"{name}: an image of mode {image.mode} cannot be converted to RGB") from error
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
    # Pillow writes the alpha into the palette of the image that it converts: convert a copy.
    rgba = (image.copy() if image.mode == "P" else image).convert("RGBA")
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, rgba).convert("RGB")


def _deep_grey_to_8_bit(image: Image.Image, white_levels: tuple[int, ...], name: str) -> Image.Image:
    levels = np.asarray(image)
    lowest, highest = levels.min(), levels.max()  # both NaN if any level is NaN
    white = next((white for white in white_levels if lowest >= 0 and highest <= white), None)
    if white is None:
        accepted = " or ".join(f"0 to {level}" for level in white_levels)
        raise ImageError(
            f"{name}: an image of mode {image.mode} must have levels of {accepted}, none of them NaN, "
            f"not {lowest} to {highest}; scale it first"
        )
    # float32 is exact enough: 255 v / 65535 = v / 257 is never nearer than 1/514 to a rounding boundary.
    grey = np.rint(levels.astype(np.float32) * np.float32(255 / white)).astype(np.uint8)
    transparent = image.info.get("transparency")  # the transparent grey level of a 16-bit PNG
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
    """Return the pixel values float32[3, S, S] of an RGB image.

    The image is resized to S x S with bicubic interpolation on uint8 levels. Its aspect ratio is not kept.
    Then each level becomes (level * rescale - mean) / std.

    Args:
        rgb: an image of mode RGB.
        size: S, in pixels.
        mean: mean of each channel, 3 numbers.
        std: standard deviation of each channel, 3 numbers.
        rescale: factor that maps a level of 0 to 255 to the range of `mean` and `std`.

    Raises:
        ImageError: `rgb` is of another mode.
        ValueError: `mean` or `std` does not have 3 numbers.
    """
    if rgb.mode != "RGB":
        raise ImageError(f"preprocess takes an image of mode RGB, not {rgb.mode}; open it with open_image")
    levels = np.asarray(rgb.resize((size, size), Image.Resampling.BICUBIC))
    # A level has 256 values: compute the result of each value once. The precision is the same as in
    # transformers: the product in float64, rounded to float32, and all other steps in float32.
    unit = (np.arange(256, dtype=np.float64) * rescale).astype(np.float32)
    pixel_values = np.empty((3, size, size), dtype=np.float32)
    for channel, (centre, spread) in enumerate(zip(mean, std, strict=True)):
        value_of_level = (unit - np.float32(centre)) / np.float32(spread)
        np.take(value_of_level, levels[..., channel], out=pixel_values[channel])
    return pixel_values
