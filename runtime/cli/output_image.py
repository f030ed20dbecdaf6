"""Output files named by an option: opened before the work, written completely or not at all."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from ..atomic_file import write_atomically
from ..errors import OptionError

KINDS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
# Pixels: JPEG_MAX_DIMENSION of libjpeg's jmorecfg.h, WEBP_MAX_DIMENSION of libwebp's encode.h.
LONGEST_SIDE = {"JPEG": 65_500, "WEBP": 16_383}


@contextmanager
def output_file(path: Path, option: str) -> Iterator[BinaryIO]:
    """Open an output file with `write_atomically`; if the block raises, the previous file stays.

    Args:
        path: the file.
        option: how the user named it, for messages.

    Raises:
        OptionError: the file cannot be written, or is not a regular file.
    """
    with ExitStack() as stack:
        try:
            file = stack.enter_context(write_atomically(path))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not a possible file name"
            raise OptionError(f"{path}: cannot be written ({reason}); choose another {option}") from None
        yield file


@contextmanager
def output_image(path: Path, option: str) -> Iterator[Callable[[Image.Image], None]]:
    """Open an image file with `output_file`; yield a function that encodes the image into it.

    Args:
        path: its suffix says the format.
        option: how the user named it, for messages.

    Raises:
        OptionError: the suffix is another one, the file cannot be written, or the picture, when it comes,
            is larger than its format allows.
    """
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        raise OptionError(f"{path}: its name must end in one of {', '.join(KINDS)}; choose another {option}")
    with output_file(path, option) as file:

        def save(picture: Image.Image) -> None:
            longest = LONGEST_SIDE.get(kind)
            if longest is not None and max(picture.size) > longest:
                raise OptionError(
                    f"{path}: {kind} holds {longest} pixels a side at most, the picture has "
                    f"{max(picture.size)}; choose another {option}, ending in .png"
                )
            encoded = io.BytesIO()
            picture.save(encoded, kind)  # not into the file: Pillow would hide that the disk is full
            file.write(encoded.getvalue())

        yield save
