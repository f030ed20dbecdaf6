"""Read the chunks of a WebP file that determine its first frame, and its orientation.

Source: RFC 9649, section 2.
"""

from __future__ import annotations

import io
import struct
from typing import BinaryIO

from .headers import Encoded, check_size, max_encoded_bytes, too_much_data, truncated

_HEADER_BYTES = 12  # RIFF, the length of the rest, WEBP
_IMAGE = (b"VP8 ", b"VP8L", b"ANMF")
_BEFORE_IMAGE = (b"VP8X", b"ANIM", b"ALPH")
_METADATA = (b"EXIF", b"XMP ")
_MAX_METADATA_CHUNK = 1 << 20  # bytes
_MAX_CHUNKS = 1 << 16  # an animation has a chunk per frame
_SMALL_READ = 16  # bytes: the file's header, and the name of the first chunk


class _WebpBytes(io.BytesIO):
    """A file in memory whose first read is short.

    Pillow's WebP plugin would compare the size with Pillow's limit, a global of the process, if it found the
    size in its first read. `check_size` has compared it with the caller's limit.
    """

    def read(self, count: int | None = -1, /) -> bytes:
        """Return up to `count` bytes; at most `_SMALL_READ` at the start of the file."""
        return super().read(_SMALL_READ if self.tell() == 0 else count)


def read_webp(file: BinaryIO, name: str, max_pixels: int) -> Encoded:
    """Return a WebP file with the chunks of the first frame, and its metadata.

    Only what lies within the length in the header is read.

    Raises:
        ImageError: the file is shorter than its header says, or the image is larger than `max_pixels`.
        MemoryError: libwebp could not allocate its canvases.
    """
    file_end = file.seek(0, io.SEEK_END)
    file.seek(4)
    end = int.from_bytes(file.read(4), "little") + 8
    if end > file_end:
        raise truncated(name, "WebP")
    if size := _canvas(file):
        check_size(*size, max_pixels, name)
        # libwebp reports short memory as damage: try to allocate its two canvases of 4 bytes per pixel.
        bytearray(2 * 4 * size[0] * size[1])
    left = max_encoded_bytes(size[0] * size[1] if size else 0)
    kept, images, metadata = list[bytes](), 0, dict.fromkeys(_METADATA, b"")
    position = _HEADER_BYTES
    for _ in range(_MAX_CHUNKS):
        if position + 8 > end:
            break
        file.seek(position)
        head = file.read(8)
        chunk, length = struct.unpack("<4sI", head)
        position += 8 + length + length % 2
        if position - length % 2 > end:
            raise truncated(name, "WebP")
        if chunk in _METADATA and not metadata[chunk] and length <= _MAX_METADATA_CHUNK:
            metadata[chunk] = file.read(length)
        if chunk in _IMAGE:
            images += 1
        if (chunk in _IMAGE and images == 1) or (chunk in _BEFORE_IMAGE and not images):
            if length > left:
                raise too_much_data(name, "WebP")
            left -= length
            kept += [head, file.read(length), bytes(length % 2)]
    body = b"WEBP" + b"".join(kept)
    riff = _WebpBytes(b"RIFF" + len(body).to_bytes(4, "little") + body)
    return Encoded(riff, images > 1, metadata[b"EXIF"], metadata[b"XMP "])


def _canvas(file: BinaryIO) -> tuple[int, int] | None:
    """Return the width and height in a WebP header, or None if the header is malformed.

    Source: RFC 9649, sections 2.5 to 2.7.
    """
    file.seek(_HEADER_BYTES)
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
