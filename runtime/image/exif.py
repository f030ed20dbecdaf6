"""Turns a picture upright: what the camera wrote in EXIF, applied once."""

from __future__ import annotations

import struct

from PIL import Image

# CIPA DC-008 (EXIF 2.32), section 4.6.4: tag 0x0112 "Orientation", one SHORT (field type 3), 1 to 8.
_ORIENTATION_TAG = 0x0112
_SHORT = 3
_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}  # TIFF 6.0, section 2: the image file header
_ENTRY_BYTES = 12  # TIFF 6.0, section 2: one entry of an image file directory

# What undoes each orientation; 1 is upright already. Pillow turns counter-clockwise.
_UNDO = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def exif_orientation(exif: bytes) -> int:
    """Orientation 1..8 of an EXIF block, with or without its `Exif` prefix; 1 where it names none.

    Pillow's own reader answers a cut directory with a warning printed for the whole process and no value:
    here malformed is told apart from absent. Raises ValueError where the block is malformed.
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
            place = directory + 2 + _ENTRY_BYTES * index
            tag, kind, count, value = struct.unpack_from(f"{order}HHIH", block, place)
            if tag != _ORIENTATION_TAG:
                continue
            if (kind, count) != (_SHORT, 1) or not 1 <= value <= 8:
                raise ValueError("orientation is not one number from 1 to 8")
            return int(value)
    except struct.error as error:
        raise ValueError("directory is cut off") from error
    return 1


def upright(rgb: Image.Image, orientation: int) -> Image.Image:
    """The picture as it is meant to be seen: `orientation` (1..8) undone."""
    undo = _UNDO.get(orientation)
    return rgb if undo is None else rgb.transpose(undo)
