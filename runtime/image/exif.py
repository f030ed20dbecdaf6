"""Strict reading of the orientation in EXIF and XMP, and its application to an image."""

from __future__ import annotations

import re
import struct

from PIL import Image, ImageOps

# CIPA DC-008 (EXIF 2.32), section 4.6.4: tag 0x0112 "Orientation", one SHORT, 1 to 8. Some programs write 0,
# which is reserved, or another whole number type. TIFF 6.0, section 2, has the numbers of the types.
_ORIENTATION_TAG = 0x0112
_WHOLE_NUMBERS = {3: "H", 4: "I", 8: "h", 9: "i"}  # SHORT, LONG, SSHORT, SLONG
_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}  # TIFF 6.0, section 2: the image file header
_ENTRY_BYTES = 12  # TIFF 6.0, section 2: one entry of an image file directory
# XMP specification, part 2, section 3.2: the property may be an attribute or an element.
_XMP_ORIENTATION = re.compile(rb"""tiff:Orientation(?:\s*=\s*["']|>)\s*([0-9])""")


def orientation(exif: bytes, xmp: bytes) -> int:
    """Return the orientation (1 to 8) in EXIF; if EXIF has none, the one in XMP; if XMP has none, 1.

    Pillow's reader is not used: it reports damaged EXIF with `warnings.warn` only. To catch the warning, the
    warning filters of the whole process would have to change, which is not safe while other threads open
    images.

    Args:
        exif: an EXIF block; it may begin with the prefix `Exif`. It may be empty.
        xmp: an XMP packet. It may be empty.

    Raises:
        ValueError: the EXIF block is malformed.
    """
    stated = _exif_orientation(exif.removeprefix(b"Exif\0\0"))
    if stated is None and (match := _XMP_ORIENTATION.search(xmp)):
        stated = int(match[1])
    return stated if stated is not None and 1 <= stated <= 8 else 1


def _exif_orientation(block: bytes) -> int | None:
    if not block:
        return None
    order = _BYTE_ORDERS.get(block[:4])
    if order is None:
        raise ValueError("no TIFF header")
    try:
        (directory,) = struct.unpack_from(f"{order}I", block, 4)
        (entries,) = struct.unpack_from(f"{order}H", block, directory)
        for index in range(entries):
            offset = directory + 2 + _ENTRY_BYTES * index
            tag, kind, count = struct.unpack_from(f"{order}HHI", block, offset)
            if tag != _ORIENTATION_TAG:
                continue
            if kind not in _WHOLE_NUMBERS or count != 1:
                raise ValueError("orientation is not one whole number")
            (value,) = struct.unpack_from(f"{order}{_WHOLE_NUMBERS[kind]}", block, offset + 8)
            if not 0 <= value <= 8:
                raise ValueError("orientation is not a number from 0 to 8")
            return int(value)
    except struct.error as error:
        raise ValueError("directory is cut off") from error
    return None


def upright(rgb: Image.Image, stated: int) -> Image.Image:
    """Return a copy of an image, rotated or mirrored as the stated orientation (1 to 8) requires.

    The returned image has no metadata.
    """
    if stated == 1:
        return rgb
    rgb.getexif()[_ORIENTATION_TAG] = stated
    return ImageOps.exif_transpose(rgb)
