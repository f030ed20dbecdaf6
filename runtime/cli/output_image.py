"""A picture written to a file: whole or not at all, and refused before any work where it cannot be."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from ..atomic_file import write_atomically
from ..errors import OptionError

KINDS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
# Pixels: JPEG_MAX_DIMENSION of libjpeg's jmorecfg.h, WEBP_MAX_DIMENSION of libwebp's encode.h.
LONGEST_SIDE = {"JPEG": 65_500, "WEBP": 16_383}


@contextmanager
def output_image(path: Path, option: str) -> Iterator[Callable[[Image.Image], None]]:
    """A function that writes a picture; until it is called, what was there stays.

    Args:
        path: its suffix says the format.
        option: how the user named it, for messages.

    Raises:
        OptionError: the suffix is another one, no file can be written there, or the picture, when it comes,
            is larger than its format allows.
    """
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        raise OptionError(f"{path}: its name must end in one of {', '.join(KINDS)}; choose another {option}")
    with write_atomically(path, option) as write:

        def save(picture: Image.Image) -> None:
            longest = LONGEST_SIDE.get(kind)
            if longest is not None and max(picture.size) > longest:
                raise OptionError(
                    f"{path}: {kind} holds {longest} pixels a side at most, the picture has "
                    f"{max(picture.size)}; choose another {option}, ending in .png"
                )
            encoded = io.BytesIO()
            picture.save(encoded, kind)
            write(encoded.getvalue())

        yield save
