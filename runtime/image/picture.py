"""A picture as a bundle looks at it: opened, resized and normalised once, asked about as often as one likes.

Legend: S image side in pixels.
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
    """What is left of a picture once it is opened; `PaliGemma.open` makes one."""

    pixels: NDArray[np.float32] = field(repr=False)  # float32[3, S, S]
    width: int  # pixels of the picture that was opened, in the displayed orientation
    height: int
    warnings: tuple[str, ...] = ()  # of opening it


def open_picture(
    source: ImageInput | Picture, facts: ImageFacts, *, max_pixels: int = DEFAULT_MAX_PIXELS
) -> Picture:
    """Open a picture for a bundle; one that is open stays as it is.

    Raises:
        ImageError: as `open_image`, or a picture was opened for a bundle of another size.
        OptionError: `max_pixels` is not a positive whole number.
        ResourceError: out of memory.
    """
    if isinstance(source, Picture):
        if source.pixels.shape != (3, facts.size, facts.size):
            raise ImageError(
                f"the picture was opened for a bundle of {source.pixels.shape[-1]} pixels, this one has "
                f"{facts.size}; open it with this one"
            )
        return source
    return preprocess_opened(open_image(source, max_pixels=max_pixels), facts)


def preprocess_opened(opened: OpenedImage, facts: ImageFacts) -> Picture:
    """What a bundle sees of an open image."""
    pixels = preprocess(opened.rgb, facts.size, facts.mean, facts.std, facts.rescale_factor)
    return Picture(pixels, opened.width, opened.height, opened.warnings)
