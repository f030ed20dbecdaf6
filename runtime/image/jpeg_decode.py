"""Decode a JPEG, and find out whether its data is complete.

libjpeg leaves missing blocks grey and skips data that is left over. It only counts a warning, which Pillow
ignores. So this module observes how much of the data libjpeg reads.
"""

from __future__ import annotations

import io

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from .headers import truncated
from .jpeg import Jpeg

# Filler for missing data. Decoded as coefficients, these bytes change the pixels. None is FF, which begins a
# marker.
_FILLER = bytes((37 * index + 91) % 251 for index in range(96))
_END_BYTES = 32  # bytes of a scan's end that are given to libjpeg one by one
_AHEAD_BYTES = 8  # libjpeg reads up to 8 bytes ahead: BIT_BUF_SIZE in its jdhuff.h is at most 64 bits
_RESTARTS = 8  # number of RST markers; the first is D0
_COMPARED_BYTES = 1 << 20


def decode_jpeg(jpeg: Jpeg, name: str) -> tuple[Image.Image, bool]:
    """Return the image, and whether it is damaged, which means that its data does not fit its size.

    Raises:
        ImageError: data is missing.
    """
    damaged = not (jpeg.has_all_scans and all(scan.in_sequence for scan in jpeg.scans))
    if jpeg.is_single_pass:
        stepped = _SteppedJpeg(jpeg)
        stepped.load()
        if stepped.steps:
            return stepped, damaged or stepped.has_data_left_over
    image = JpegImageFile(io.BytesIO(b"".join(jpeg.parts)))
    image.load()
    if not jpeg.is_arithmetic and not _equal(image, _with_filler(jpeg)):
        raise truncated(name, "JPEG")
    return image, damaged


class _SteppedJpeg(JpegImageFile):
    """A JPEG of one scan that is given to libjpeg in steps, each when libjpeg needs more data.

    The first step is everything before the last bytes of the scan. Each of these bytes, and each byte of
    filler, is a step. The last step is the end of the file. Pillow requests no more steps after it has
    decoded the last row.

    Attributes:
        steps: steps that libjpeg has not needed yet, the next at the end.
    """

    def __init__(self, jpeg: Jpeg) -> None:
        (scan,) = jpeg.scans
        data = jpeg.parts[scan.index]
        before, after = b"".join(jpeg.parts[: scan.index]), b"".join(jpeg.parts[scan.index + 1 :])
        end = max(0, len(data) - _END_BYTES)
        last = data[end:] + _FILLER[:_AHEAD_BYTES]
        self.steps = [after, *(bytes((byte,)) for byte in reversed(last)), before + data[:end]]
        super().__init__(io.BytesIO(before))

    @property
    def has_data_left_over(self) -> bool:
        """True if libjpeg did not need the end of the data. A few bytes of zeros are padding."""
        left_over = self.steps[:_AHEAD_BYTES:-1]
        return len(left_over) >= _END_BYTES or any(map(any, left_over))

    def load_read(self, read_bytes: int) -> bytes:  # noqa: ARG002  each step has its size
        """Return the next step."""
        return self.steps.pop() if self.steps else b""


def _with_filler(jpeg: Jpeg) -> JpegImageFile:
    """Return a JPEG with bytes after the data of each scan and of each restart interval.

    A decoder skips these bytes if it has all blocks of the interval or scan. Otherwise it decodes them as the
    missing blocks.
    """
    parts = list(jpeg.parts)
    for scan in jpeg.scans:
        data, start, pieces = parts[scan.index], 0, []
        for end in (*scan.restarts, len(data)):
            pieces += [data[start:end], _FILLER]
            start = end
        missing = bytes((0xFF, 0xD0 + len(scan.restarts) % _RESTARTS))  # if an interval is missing
        parts[scan.index] = b"".join((*pieces, missing, _FILLER))
    return JpegImageFile(io.BytesIO(b"".join(parts)))


def _equal(one: Image.Image, other: Image.Image) -> bool:
    other.load()
    rows = max(1, _COMPARED_BYTES // one.width)
    boxes = [(0, top, one.width, min(top + rows, one.height)) for top in range(0, one.height, rows)]
    return all(one.crop(box).tobytes() == other.crop(box).tobytes() for box in boxes)
