"""Strict reading of the EXIF orientation, and its application to an image."""

from __future__ import annotations

import struct

from PIL import Image, ImageOps

# CIPA DC-008 (EXIF 2.32), section 4.6.4: tag 0x0112 "Orientation", one SHORT (field type 3), 1 to 8.
_ORIENTATION_TAG = 0x0112
_SHORT = 3
_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}  # TIFF 6.0, section 2: the image file header
_ENTRY_BYTES = 12  # TIFF 6.0, section 2: one entry of an image file directory


def exif_orientation(exif: bytes) -> int:
    """Return the orientation (1 to 8) of an EXIF block. If the block has no orientation, return 1.

    The block may begin with the prefix `Exif`. Pillow's reader is not used: it reports a damaged directory
    with `warnings.warn` only. To catch the warning, the warning filters of the whole process would have to
    change, which is not safe while other threads open images.

    Raises:
        ValueError: the block is malformed.
    """
    block = exif.removeprefix(b"Exif\0\0")
    if not block:
        return 1
    order = _BYTE_ORDERS.get(block[:4])
    if order is None:
        raise ValueError("no TIFF header")
    try:
        (directory,) = struct.unpack_from(f"{order}I", block, 4)
        (entries,) = struct.unpack_from(f"{order}H", block, directory)
        for index in range(entries):
            offset = directory + 2 + _ENTRY_BYTES * index
            tag, kind, count, value = struct.unpack_from(f"{order}HHIH", block, offset)
            if tag != _ORIENTATION_TAG:
                continue
            if (kind, count) != (_SHORT, 1) or not 1 <= value <= 8:
                raise ValueError("orientation is not one number from 1 to 8")
            return int(value)
    except struct.error as error:
        raise ValueError("directory is cut off") from error
    return 1


def upright(rgb: Image.Image, orientation: int) -> Image.Image:
    """Return an image, turned or mirrored from `orientation` (1 to 8) to its displayed orientation.

    The returned image has no metadata.
    """
    if orientation == 1:
        return rgb
    rgb.getexif()[_ORIENTATION_TAG] = orientation
    return ImageOps.exif_transpose(rgb)
