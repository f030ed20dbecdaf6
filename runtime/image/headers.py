"""Checks and limits that the readers of all image formats use before any pixel is decoded.

Pillow's checks are not sufficient. Pillow compares the size only with its own limit, a global of the process.
Pillow's plugins read and store metadata of any size.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import BinaryIO

from ..errors import ImageError

# Pixels. Pillow's bicubic resize keeps 4 filter weights of 8 bytes for each source pixel of a side: at
# 1,000,000 that is 32 MB. The longest screenshots of web pages are a tenth of it.
MAX_SIDE = 1_000_000

# Maximum number of metadata bytes that are read from a file. Photographs have less than 10 MB of metadata.
MAX_METADATA_BYTES = 64 << 20
# Maximum number of encoded bytes per pixel that are read. The largest pixel of an accepted format, TIFF with
# four channels of float32, has 16 bytes before its compression.
MAX_BYTES_PER_PIXEL = 16


@dataclass(frozen=True)
class Encoded:
    """The bytes of an image file that determine the pixels of its first frame, and its metadata."""

    file: BinaryIO
    animated: bool
    exif: bytes
    xmp: bytes


def check_size(width: int, height: int, max_pixels: int, name: str) -> None:
    """Raise ImageError if an image of `width` x `height` pixels is empty or larger than allowed."""
    if width < 1 or height < 1:
        raise ImageError(f"{name} has no pixels: it is {width} x {height}; get it again, or save it anew")
    if width * height > max_pixels:
        raise ImageError(
            f"{name} is {width} x {height} = {width * height:,} pixels, over the cap of {max_pixels:,}; "
            "make it smaller or raise max_image_pixels"
        )
    if max(width, height) > MAX_SIDE:
        raise ImageError(f"{name} is {width} x {height}, no side may exceed {MAX_SIDE:,}; make it smaller")


def max_encoded_bytes(pixels: int) -> int:
    """Return the maximum number of bytes that are read from a file with this number of pixels."""
    return MAX_METADATA_BYTES + MAX_BYTES_PER_PIXEL * pixels


def truncated(name: str, kind: str) -> ImageError:
    """Return the error for a file that ends before the end of the image."""
    return ImageError(f"{name} is truncated: the {kind} file ends before its image does; get it again")


def too_much_data(name: str, kind: str) -> ImageError:
    """Return the error for a file that has more data than an image of its size can have."""
    return ImageError(
        f"{name} is damaged: the {kind} file has far more data than its pixels need; get it again, or save "
        "the image anew"
    )


class LimitedFile:
    """A view of a file from which a limited number of bytes can be read: metadata first, then pixels.

    While pixels are read, reading at the end of the file raises ImageError. Otherwise Pillow would pad
    missing pixels with grey if the host application has set `ImageFile.LOAD_TRUNCATED_IMAGES`. This global
    belongs to the host and to all its threads: it is neither relied on nor changed.
    """

    def __init__(self, file: BinaryIO, name: str, kind: str, max_bytes: int = MAX_METADATA_BYTES) -> None:
        self._file, self._name, self._kind = file, name, kind
        self._left = max_bytes
        self._in_pixels = False

    def begin_pixels(self, pixels: int) -> None:
        """Allow reading the bytes of this number of pixels; from now on raise at the end of the file."""
        self._left += max_encoded_bytes(pixels)
        self._in_pixels = True

    def end_pixels(self) -> None:
        """From now on return nothing at the end of the file."""
        self._in_pixels = False

    def read(self, count: int = -1) -> bytes:
        """Return up to `count` bytes; -1: all bytes up to the end of the file."""
        wanted = self._left + 1 if count < 0 else count
        data = self._file.read(min(wanted, self._left + 1))
        self._left -= len(data)
        if self._left < 0:
            raise too_much_data(self._name, self._kind)
        if wanted and not data and self._in_pixels:
            raise truncated(self._name, self._kind)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position, and return it."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the position."""
        return self._file.tell()

    def fileno(self) -> int:
        """Return the descriptor, from which libtiff reads.

        Raises:
            OSError: the file is in memory.
        """
        return self._file.fileno()
