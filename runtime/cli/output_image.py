"""Output files named by an option. They are opened before the work, and written completely or not at all."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from ..atomic_file import write_atomically
from ..errors import OptionError

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
# Pixels: JPEG_MAX_DIMENSION in libjpeg's jmorecfg.h, WEBP_MAX_DIMENSION in libwebp's encode.h.
MAX_SIDE = {"JPEG": 65_500, "WEBP": 16_383}


@contextmanager
def output_file(path: Path, option: str) -> Iterator[BinaryIO]:
    """Open an output file with `write_atomically`. If the block raises an error, the previous file stays.

    Args:
        path: the file.
        option: the command-line option that set the path, for messages.

    Raises:
        OptionError: the file cannot be written, or is not a regular file.
    """
    with ExitStack() as stack:
        try:
            file = stack.enter_context(write_atomically(path))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not a valid file name"
            raise OptionError(f"{path}: cannot be written ({reason}); choose another {option}") from None
        yield file


@contextmanager
def output_image(path: Path, option: str) -> Iterator[Callable[[Image.Image], None]]:
    """Open an image file with `output_file`. Yield a function that encodes an image into the file.

    Args:
        path: the file; its suffix selects the format.
        option: the command-line option that set the path, for messages.

    Raises:
        OptionError: the suffix is unknown, or the file cannot be written. The yielded function raises it if
            the image is larger than the format allows.
    """
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise OptionError(f"{path}: the file name must end in {', '.join(FORMATS)}; choose another {option}")
    with output_file(path, option) as file:

        def save(image: Image.Image) -> None:
            limit = MAX_SIDE.get(kind)
            if limit is not None and max(image.size) > limit:
                raise OptionError(
                    f"{path}: {kind} allows at most {limit} pixels per side, the image has "
                    f"{max(image.size)}; choose another {option}, ending in .png"
                )
            encoded = io.BytesIO()
            image.save(encoded, kind)  # not directly into the file: Pillow would hide that the disk is full
            file.write(encoded.getvalue())

        yield save
