"""Checks of an encoded image before any pixel is decoded: its size, and whether the file is complete.

Pillow's checks are not sufficient. Pillow compares the size only with its own limit, a global of the process.
Pillow's WebP and GIF plugins allocate the canvas when they open a file. Pillow ignores the checksums of PNG
pixel data. libtiff, which Pillow calls, prints to stderr.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Mapping
from typing import Any, BinaryIO

from ..errors import ImageError

# Pixels. Pillow's bicubic resize keeps 4 filter weights of 8 bytes for each source pixel of a side: at
# 1,000,000 that is 32 MB. The longest screenshots of web pages are a tenth of it.
MAX_SIDE = 1_000_000

_PNG_SIGNATURE_BYTES = 8
# The chunks that determine the pixels, and EXIF. Later frames are left out. Text and colour profiles are also
# left out: they may decompress to a thousand times their size (Pillow refuses a profile of more than 1 MiB).
_PNG_CHUNKS_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"eXIf", b"IEND")

# TIFF 6.0, sections 8 and 15: tag numbers, and a value of Compression
_COMPRESSION, _UNCOMPRESSED = 259, 1
_TILE_WIDTH, _TILE_LENGTH = 322, 323
_TIFF_DATA = ((273, 279), (324, 325))  # offsets and lengths in bytes: of strips, of tiles


def check_size(width: int, height: int, max_pixels: int, name: str) -> None:
    """Raise ImageError if an image of `width` x `height` pixels is empty or larger than allowed."""
    if width < 1 or height < 1:
        raise ImageError(f"{name} has no pixels: it is {width} x {height}")
    if width * height > max_pixels:
        raise ImageError(
            f"{name} is {width} x {height} = {width * height:,} pixels, over the cap of {max_pixels:,}; "
            "make it smaller or raise max_image_pixels"
        )
    if max(width, height) > MAX_SIDE:
        raise ImageError(f"{name} is {width} x {height}, no side may pass {MAX_SIDE:,}; make it smaller")


def truncated(name: str, kind: str) -> ImageError:
    """Return the error for a file that ends before the end of the image."""
    return ImageError(f"{name} is truncated: the {kind} file ends before its image does; get it again")


def webp_canvas(file: BinaryIO) -> tuple[int, int] | None:
    """Return the width and height in a WebP header, or None if the header is malformed.

    Source: RFC 9649, sections 2.5 to 2.7.
    """
    file.seek(12)
    chunk, body = file.read(4), file.read(14)[4:]  # the chunk's name, its length, ten bytes of content
    if len(body) < 10:
        return None
    if chunk == b"VP8X":  # flags and reserved bytes, then two 24-bit numbers, each one less than the side
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    if chunk == b"VP8L" and body[0] == 0x2F:  # signature, then two 14-bit numbers, each one less
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8 ":  # frame tag, start code, then two numbers of 14 bits below 2 bits of scale
        width, height = struct.unpack("<HH", body[6:10])
        return width & 0x3FFF, height & 0x3FFF
    return None


def gif_canvas(file: BinaryIO) -> tuple[int, int]:
    """Return the width and height of a GIF's screen, enlarged to contain the first frame.

    Source: GIF89a specification, sections 18 to 20.

    Raises:
        struct.error: the header is cut off.
    """
    file.seek(6)
    width, height, flags = struct.unpack("<HHBxx", file.read(7))
    if flags & 0x80:
        file.seek(3 << (flags & 7) + 1, os.SEEK_CUR)  # the global colour table
    while (block := file.read(1)) == b"!":  # extensions: a label, then sub-blocks up to an empty one
        file.seek(1, os.SEEK_CUR)
        while (length := file.read(1)) not in (b"", b"\0"):
            file.seek(length[0], os.SEEK_CUR)
    if block == b",":
        left, top, frame_width, frame_height = struct.unpack("<HHHH", file.read(8))
        width, height = max(width, left + frame_width), max(height, top + frame_height)
    return width, height


def check_tiff(file: BinaryIO, tags: Mapping[int, Any], max_pixels: int, name: str) -> None:
    """Check the layout of a TIFF before libtiff reads it (TIFF 6.0, sections 8 and 15).

    libtiff allocates a whole tile even for a small image, and prints to stderr if data is cut off.

    Raises:
        ImageError: a tile has more than `max_pixels` pixels, or compressed data lies beyond the end of the
            file.
    """
    tile = tags.get(_TILE_WIDTH, 1), tags.get(_TILE_LENGTH, 1)
    check_size(*tile, max_pixels, f"a tile of {name}")
    if tags.get(_COMPRESSION, 1) == _UNCOMPRESSED:
        return  # some writers round the length of the last strip up; Pillow reads only what the size requires
    end = file.seek(0, os.SEEK_END)
    for offsets, lengths in _TIFF_DATA:
        for offset, length in zip(tags.get(offsets, ()), tags.get(lengths, ()), strict=False):
            if offset + length > end:
                raise truncated(name, "TIFF")


def read_png(file: BinaryIO, name: str, max_pixels: int) -> tuple[BinaryIO, bool]:
    """Return a PNG file with the chunks of the first frame, and whether the original PNG is animated.

    Source: PNG third edition, section 5.3. Every checksum is verified. The size is checked before the data
    after the header is read.

    Raises:
        ImageError: a checksum is wrong, a chunk is cut off, or the image is larger than `max_pixels`.
    """
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    kept = io.BytesIO()
    kept.write(file.read(_PNG_SIGNATURE_BYTES))
    animated, chunk = False, b""
    while chunk != b"IEND":
        head = file.read(8)
        if len(head) < 8:
            raise truncated(name, "PNG")
        length, chunk = struct.unpack(">I4s", head)
        if file.tell() + length + 4 > end:  # before reading: a hostile length would be allocated
            raise truncated(name, "PNG")
        body, checksum = file.read(length), file.read(4)
        if chunk == b"IHDR":
            width, height = struct.unpack_from(">II", body)
            check_size(width, height, max_pixels, name)
        if zlib.crc32(body, zlib.crc32(chunk)).to_bytes(4, "big") != checksum:
            raise ImageError(f"{name} is truncated or damaged: a PNG checksum is wrong; get it again")
        if chunk in _PNG_CHUNKS_KEPT:
            kept.write(head + body + checksum)
        if chunk == b"acTL":
            animated = int.from_bytes(body[:4], "big") > 1  # the number of frames
    return kept, animated
