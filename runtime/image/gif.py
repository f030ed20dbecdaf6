"""Read the size of a GIF, and whether it has a second frame.

Source: GIF89a specification, sections 18 to 23.
"""

from __future__ import annotations

import os
import struct
from typing import BinaryIO

from .headers import MAX_METADATA_BYTES, check_size, max_encoded_bytes, too_much_data


def check_gif(file: BinaryIO, name: str, max_pixels: int) -> bool:
    """Check the size of a GIF, and return whether it has a second frame.

    The size is that of the screen, enlarged to contain the first frame. Pillow's plugin allocates it when it
    opens the file.

    Raises:
        ImageError: the image is larger than `max_pixels`.
        struct.error: the header is cut off.
    """
    file.seek(6)
    width, height, flags = struct.unpack("<HHBxx", file.read(7))
    check_size(width, height, max_pixels, name)
    _skip_colours(file, flags)
    if _skip_extensions(file, name) == b",":
        left, top, frame_width, frame_height, flags = struct.unpack("<HHHHB", file.read(9))
        width, height = max(width, left + frame_width), max(height, top + frame_height)
        check_size(width, height, max_pixels, name)
        _skip_colours(file, flags)
        file.seek(1, os.SEEK_CUR)  # the size of the first code
        _skip_blocks(file, name, max_encoded_bytes(width * height))
        return _skip_extensions(file, name) == b","
    return False


def _skip_colours(file: BinaryIO, flags: int) -> None:
    if flags & 0x80:
        file.seek(3 << (flags & 7) + 1, os.SEEK_CUR)


def _skip_extensions(file: BinaryIO, name: str) -> bytes:
    """Skip extensions, each a label and blocks; return the first byte after them."""
    start = file.tell()
    while (byte := file.read(1)) == b"!":
        file.seek(1, os.SEEK_CUR)
        _skip_blocks(file, name, MAX_METADATA_BYTES - (file.tell() - start))
    return byte


def _skip_blocks(file: BinaryIO, name: str, max_bytes: int) -> None:
    """Skip blocks of up to 255 bytes, until an empty block."""
    end = file.tell() + max_bytes
    while (length := file.read(1)) not in (b"", b"\0"):
        if file.seek(length[0], os.SEEK_CUR) > end:
            raise too_much_data(name, "GIF")
