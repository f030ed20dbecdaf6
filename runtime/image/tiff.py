"""Check the layout of a TIFF before libtiff reads it.

libtiff allocates a whole tile even for a small image, and prints to stderr if data is cut off.

Source: TIFF 6.0, sections 8 and 15.
"""

from __future__ import annotations

import os
from typing import BinaryIO

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from .headers import LimitedFile, check_size, max_encoded_bytes, too_much_data, truncated

# Maximum number of bytes that are read. Pillow reads the tags several times. Tags of Photoshop contain its
# layers, some 100 MB.
MAX_TIFF_BYTES = 1 << 30

# tag numbers, and a value of Compression
_COMPRESSION, _UNCOMPRESSED = 259, 1
_TILE_WIDTH, _TILE_LENGTH = 322, 323
_DATA = ((273, 279), (324, 325))  # offsets and lengths in bytes: of strips, of tiles


class TiffFile(TiffImageFile):
    """Pillow's plugin without Pillow's own size limit, which is a global variable of the process."""

    def load_prepare(self) -> None:
        """Allocate the image, whose size `check_size` has compared with the caller's limit."""
        if self._im is None:
            self.im = Image.new(self.mode, self._tile_size).im
        super().load_prepare()

    def load_end(self) -> None:
        """Apply the orientation, whose tag may be followed by tags that are cut off."""
        if isinstance(self.fp, LimitedFile):
            self.fp.end_pixels()
        super().load_end()


def check_tiff(image: TiffImageFile, file: BinaryIO, max_pixels: int, name: str) -> None:
    """Check tiles, and whether all compressed data is in the file.

    Raises:
        ImageError: a tile has more than `max_pixels` pixels, or compressed data lies beyond the end of the
            file.
    """
    tags = image.tag_v2
    tile = tags.get(_TILE_WIDTH, 1), tags.get(_TILE_LENGTH, 1)
    check_size(*tile, max_pixels, f"a tile of {name}")
    if tags.get(_COMPRESSION, 1) == _UNCOMPRESSED:
        return  # some writers round the length of the last strip up; Pillow reads only what the size requires
    end = file.seek(0, os.SEEK_END)
    most = max_encoded_bytes(image.width * image.height)
    for offsets, lengths in _DATA:
        for offset, length in zip(tags.get(offsets, ()), tags.get(lengths, ()), strict=False):
            if offset + length > end:
                raise truncated(name, "TIFF")
            if length > most:
                raise too_much_data(name, "TIFF")
