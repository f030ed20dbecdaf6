"""Read the chunks of a PNG that determine the pixels of its first frame, and its orientation.

Source: PNG third edition, section 5.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from ..errors import ImageError
from .headers import MAX_METADATA_BYTES, Encoded, check_size, max_encoded_bytes, too_much_data, truncated

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MAX_CHUNKS = 1 << 20  # libpng writes chunks of 8 KiB: a gigabyte of data has 131,072
_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT")  # damage in these chunks changes the pixels
_METADATA = (b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"acTL")
# Text with these keywords may contain the orientation: XMP, and EXIF as ImageMagick writes it in hexadecimal.
_XMP, _RAW_EXIF = b"XML:com.adobe.xmp\0", b"Raw profile type exif\0"
_MAX_TEXT_BYTES = 1 << 20  # after decompression


def read_png(file: BinaryIO, name: str, max_pixels: int) -> Encoded:
    """Return a PNG with the chunks of the first frame, and its metadata.

    Checksums of the chunks that determine the pixels are verified. As in libpng, another chunk with a wrong
    checksum is ignored, and IEND may be missing. The size is checked before the data after the header is
    read.

    Raises:
        ImageError: a checksum is wrong, a chunk is cut off, or the image is larger than `max_pixels`.
    """
    kept, animated, exif, xmp = [_SIGNATURE], False, b"", b""
    for chunk, body, sound in _useful_chunks(file, name, max_pixels):
        if chunk in _PIXELS:
            if not sound:
                raise ImageError(f"{name} is truncated or damaged: a PNG checksum is wrong; get it again")
            kept.append(_chunk(chunk, body))
        elif not sound:
            continue
        elif chunk == b"acTL":
            animated = int.from_bytes(body[:4], "big") > 1  # the number of frames
        elif chunk == b"eXIf":
            exif = body
        elif body.startswith(_XMP) and not xmp:
            xmp = _text(chunk, body.removeprefix(_XMP))
        elif body.startswith(_RAW_EXIF) and not exif:
            exif = _from_hexadecimal(_text(chunk, body.removeprefix(_RAW_EXIF)))
    return Encoded(io.BytesIO(b"".join((*kept, _chunk(b"IEND", b"")))), animated, exif, xmp)


def _useful_chunks(file: BinaryIO, name: str, max_pixels: int) -> Iterator[tuple[bytes, bytes, bool]]:
    """Yield type and content of the chunks in _PIXELS and _METADATA, and whether the checksum is right."""
    file.seek(len(_SIGNATURE))
    left, has_pixels = MAX_METADATA_BYTES, False
    for _ in range(_MAX_CHUNKS):
        head = file.read(8)
        if head[4:] == b"IEND" or (len(head) < 8 and has_pixels):
            return
        if len(head) < 8:
            raise truncated(name, "PNG")
        length, chunk = struct.unpack(">I4s", head)
        if chunk not in _PIXELS and (chunk not in _METADATA or length > _MAX_TEXT_BYTES):
            file.seek(length + 4, io.SEEK_CUR)
            continue
        if length > left:
            file_ends = file.tell() + length > file.seek(0, io.SEEK_END)
            raise truncated(name, "PNG") if file_ends else too_much_data(name, "PNG")
        body, checksum = file.read(length), file.read(4)
        if chunk in _PIXELS and len(checksum) < 4:
            raise truncated(name, "PNG")
        left -= length
        if chunk == b"IHDR":
            width, height = struct.unpack_from(">II", body)
            check_size(width, height, max_pixels, name)
            left = max_encoded_bytes(width * height)
        has_pixels = has_pixels or chunk == b"IDAT"
        yield chunk, body, _checksum(chunk, body) == checksum
    raise too_much_data(name, "PNG")


def _chunk(chunk: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + chunk + body + _checksum(chunk, body)


def _checksum(chunk: bytes, body: bytes) -> bytes:
    return zlib.crc32(body, zlib.crc32(chunk)).to_bytes(4, "big")


def _text(chunk: bytes, body: bytes) -> bytes:
    """Return the text in a chunk's content after the keyword; empty if it is too long or malformed.

    Source: PNG third edition, section 11.3.3.
    """
    compressed = chunk == b"zTXt"
    if chunk == b"iTXt":  # compression flag, method, language, translated keyword
        compressed, rest = body[:1] == b"\1", body[2:].split(b"\0", 2)
        body = rest[-1] if len(rest) == 3 else b""
    elif compressed:
        body = body[1:]  # compression method
    if not compressed:
        return body
    try:
        return zlib.decompressobj().decompress(body, _MAX_TEXT_BYTES)
    except zlib.error:
        return b""


def _from_hexadecimal(profile: bytes) -> bytes:
    """Return the bytes of an ImageMagick profile: lines with its type and length, then hexadecimal digits."""
    try:
        return bytes.fromhex(b"".join(profile.split(b"\n")[3:]).decode("ascii"))
    except ValueError:
        return b""
