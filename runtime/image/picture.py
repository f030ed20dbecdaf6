"""An image that was preprocessed for a bundle. Several requests can use it.

Shapes: docs/notation.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..bundle.schema import ImageFacts
from ..errors import ImageError
from .open import DEFAULT_MAX_PIXELS, ImageInput, OpenedImage, open_image
from .preprocess import preprocess


@dataclass(frozen=True)
class Picture:
    """An opened and preprocessed image; `PaliGemma.open` returns it.

    Attributes:
        pixels: float32[3, S, S], resized to the bundle's side and normalised.
        width: pixels of the opened image in its displayed orientation.
        height: pixels of the opened image in its displayed orientation.
        warnings: warnings about opening the image, one line per warning.
    """

    pixels: NDArray[np.float32] = field(repr=False)
    width: int
    height: int
    warnings: tuple[str, ...] = ()


def open_picture(
    source: ImageInput | Picture, facts: ImageFacts, *, max_pixels: int = DEFAULT_MAX_PIXELS
) -> Picture:
    """Return an image, opened and preprocessed for a bundle. Return a `Picture` unchanged.

    Args:
        source: what `open_image` accepts, or a `Picture`.
        facts: side, mean, standard deviation and rescale factor of the bundle's images.
        max_pixels: cap on width times height, at least 1.

    Raises:
        ImageError: `open_image` refuses the source, or a `Picture` was opened for a bundle with another image
            size.
        OptionError: `max_pixels` is not a positive whole number.
        ResourceError: out of memory.
    """
    if isinstance(source, Picture):
        if source.pixels.shape != (3, facts.size, facts.size):
            raise ImageError(
                f"the image was opened for a bundle of {source.pixels.shape[-1]} pixels, this bundle has "
                f"{facts.size}; open it with this bundle"
            )
        return source
    return preprocess_opened(open_image(source, max_pixels=max_pixels), facts)


def preprocess_opened(opened: OpenedImage, facts: ImageFacts) -> Picture:
    """Return an opened image, preprocessed for a bundle."""
    pixels = preprocess(opened.rgb, facts.size, facts.mean, facts.std, facts.rescale_factor)
    return Picture(pixels, opened.width, opened.height, opened.warnings)
