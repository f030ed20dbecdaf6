"""Read the segments of a JPEG that determine its pixels, and its metadata.

Source: ITU-T T.81, annex B.
"""

from __future__ import annotations

import io
import re
import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO

from ..errors import ImageError
from .headers import MAX_METADATA_BYTES, check_size, max_encoded_bytes, too_much_data, truncated

_SOI, _EOI, _SOS, _APP0, _APP1, _APP14 = 0xD8, 0xD9, 0xDA, 0xE0, 0xE1, 0xEE
_RESTARTS = range(0xD0, 0xD8)
_ALONE = {0x01, _SOI, *_RESTARTS}  # markers without a length
_TABLES = {0xC4, 0xCC, 0xDB, 0xDC, 0xDD}  # DHT, DAC, DQT, DNL, DRI
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15: kinds of coding
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), (0xC2,)
_ARITHMETIC = range(0xC9, 0xD0)
# APP0 and APP14 state the colour space.
_KEPT = {_APP0, _APP14, _SOS, *_TABLES, *_FRAMES}
_SKIPPED = {*range(0xE0, 0xF0), *range(0xF0, 0xFF)}  # APP and JPG segments, COM

_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"

_MARKER = re.compile(rb"\xff[^\x00\xff]")  # in data, FF is followed by 00; before a marker, FF is padding
_BLOCK_BYTES = 1 << 16
_MAX_SEGMENTS = 1 << 14
# Encoders write up to 18 scans. Each scan visits every block of the image, so a small file with thousands of
# scans takes minutes: an empty scan about 1 ns per pixel. The limit is between these bounds.
_MIN_SCANS, _MAX_SCANS, _MAX_SCANNED_PIXELS = 20, 100, 1_000_000_000
_MAX_EXIF_BYTES = 1 << 20

_BLOCK_SIDE = 8  # pixels
_COEFFICIENTS = 64  # per block


@dataclass(frozen=True)
class Scan:
    """A scan: the position of its data, and the restart intervals in the data."""

    index: int  # index of the data in `Jpeg.parts`
    restarts: Sequence[int]  # positions of RST markers in the data
    in_sequence: bool  # whether the RST markers are numbered 0 to 7 in turn


@dataclass(frozen=True)
class Jpeg:
    """The segments of a JPEG without metadata, from SOI to EOI."""

    parts: tuple[bytes, ...]
    scans: tuple[Scan, ...]
    frame: int  # marker that states the coding
    exif: bytes
    xmp: bytes

    @property
    def is_arithmetic(self) -> bool:
        """True if the coding is arithmetic, which may omit zeros at the end of the data."""
        return self.frame in _ARITHMETIC

    @property
    def is_single_pass(self) -> bool:
        """True if rows can be decoded before all data is read, and nothing divides the data."""
        return self.frame in _SEQUENTIAL and len(self.scans) == 1 and not self.scans[0].restarts

    @property
    def has_all_scans(self) -> bool:
        """True if the scans code every coefficient of every component down to its last bit."""
        coded, components = set[tuple[int, int]](), set[int]()
        data = {scan.index for scan in self.scans}
        for part in (part for index, part in enumerate(self.parts) if index not in data):
            if part[1] in _FRAMES:
                components = {*part[10::3]}  # name, sampling and table of each, after lengths and sizes
            elif part[1] == _SOS:
                first, last, bits = part[-3:]
                if bits & 15 == 0:
                    coded |= {(name, k) for name in part[5:-3:2] for k in range(first, last + 1)}
        return self.frame not in _PROGRESSIVE or len(coded) == _COEFFICIENTS * len(components)


def read_jpeg(file: BinaryIO, name: str, max_pixels: int) -> Jpeg:
    """Return the segments of a JPEG that determine its pixels, and its metadata.

    Bytes after the end of the image, such as the preview images of cameras, are not read.

    Raises:
        ImageError: the file ends too early, is larger than `max_pixels`, or has too many scans.
    """
    file.seek(2)
    parts, scans, frame, exif, xmp = [b"\xff\xd8"], list[Scan](), 0, b"", b""
    left, blocks, max_scans, in_scan = MAX_METADATA_BYTES, 0, _MAX_SCANS, False
    for _ in range(_MAX_SEGMENTS):
        data, scan, marker = _until_marker(file, name, left, blocks if in_scan else None)
        if in_scan:
            scans.append(replace(scan, index=len(parts)))
            parts.append(data)
            left -= len(data)
        in_scan = marker == _SOS
        if marker == _EOI:
            return Jpeg((*parts, b"\xff\xd9"), tuple(scans), frame, exif, xmp)
        if marker in _ALONE:
            continue
        body = _segment(file, name, marker, wanted=marker in _KEPT or (marker == _APP1 and not scans))
        if body.startswith(_EXIF) and len(exif) < _MAX_EXIF_BYTES:
            exif += body.removeprefix(_EXIF)  # longer metadata continues in another segment
        elif body.startswith(_XMP):
            xmp = body
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", body, 1)
            check_size(width, height, max_pixels, name)
            frame, left = marker, max_encoded_bytes(width * height)
            max_scans = min(_MAX_SCANS, max(_MIN_SCANS, _MAX_SCANNED_PIXELS // (width * height)))
            blocks = -(-width // _BLOCK_SIDE) * -(-height // _BLOCK_SIDE)  # each may be a restart interval
        if len(scans) == max_scans:
            raise ImageError(
                f"{name} is a JPEG of more than {max_scans} scans, which would take long to decode; "
                "save the image anew"
            )
        if marker in _KEPT:
            parts.append(bytes((0xFF, marker)) + (len(body) + 2).to_bytes(2, "big") + body)
            left -= len(body)
    raise too_much_data(name, "JPEG")


def _segment(file: BinaryIO, name: str, marker: int, *, wanted: bool) -> bytes:
    """Read or skip a segment; return its content if it is wanted, otherwise an empty content."""
    if marker not in _KEPT and marker not in _SKIPPED:
        raise ImageError(f"{name} is damaged: a JPEG has no marker {marker:#04x}; get it again")
    head = file.read(2)
    length = int.from_bytes(head, "big") - 2
    if not wanted and length >= 0:
        file.seek(length, io.SEEK_CUR)
        return b""
    body = file.read(max(0, length))
    if len(body) != length:
        raise truncated(name, "JPEG")
    return body


def _until_marker(
    file: BinaryIO, name: str, max_bytes: int, max_restarts: int | None
) -> tuple[bytes, Scan, int]:
    """Read up to and including the next marker.

    Args:
        file: the file.
        name: the file's name in messages.
        max_bytes: maximum number of bytes before the marker.
        max_restarts: in a scan, where RST markers belong to the data: their maximum number. Otherwise None.

    Returns:
        The data before the marker, the RST markers in it, and the second byte of the marker.
    """
    pieces, length, count, rest = list[bytes](), 0, 0, b""
    restarts, in_sequence = array("Q"), True
    while block := file.read(_BLOCK_BYTES):
        count += len(block)
        block = rest + block
        for match in _MARKER.finditer(block):
            marker, start = match[0][-1], match.start()
            while start and block[start - 1] == 0xFF:
                start -= 1
            if max_restarts is None or marker not in _RESTARTS:
                file.seek(match.end() - len(block), io.SEEK_CUR)
                return b"".join((*pieces, block[:start])), Scan(0, restarts, in_sequence), marker
            in_sequence = in_sequence and marker == _RESTARTS[len(restarts) % len(_RESTARTS)]
            restarts.append(length + start)
        piece = block.rstrip(b"\xff")  # the marker may begin in this block and end in the next
        pieces.append(piece)
        length, rest = length + len(piece), block[len(piece) :][:1]
        if count > max_bytes or len(restarts) > (max_restarts or 0):
            raise too_much_data(name, "JPEG")
    raise truncated(name, "JPEG")
