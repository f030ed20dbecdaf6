"""Decode an encoded image completely, or raise an error.

Only the formats of an allow-list are accepted, and the size is checked before any pixel is decoded.
The plugin of the recognised format is called directly. `PIL.Image.open` would apply Pillow's size limit
instead of `max_pixels`, and open JPEGs with an embedded preview (MPO) as animations. Where a format stores
metadata and later frames next to the pixels, the plugin gets only what determines the pixels. So metadata of
any size takes no memory, and damaged metadata neither stops the plugin nor makes Pillow print warnings.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import BinaryIO, cast

from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from ..errors import ImageError
from .gif import check_gif
from .headers import Encoded, LimitedFile, check_size, truncated
from .jpeg import read_jpeg
from .jpeg_decode import decode_jpeg
from .png import read_png
from .tiff import MAX_TIFF_BYTES, TiffFile, check_tiff
from .webp import read_webp

# First bytes of each format.
_FORMATS = {
    "JPEG": rb"\xff\xd8\xff",  # ITU-T T.81, annex B: SOI, first byte of the next marker
    "PNG": rb"\x89PNG\r\n\x1a\n",  # PNG third edition, section 5.2
    "WebP": rb"RIFF.{4}WEBP",  # RFC 9649, section 2.4
    "BMP": rb"BM",
    "GIF": rb"GIF8[79]a",
    "TIFF": rb"II[*+]\0|MM\0[*+]",  # TIFF 6.0, section 2, and BigTIFF
}
_DAMAGED_JPEG = (
    "{} is damaged: its JPEG data does not fit its size, and parts of the image may be wrong; get it again"
)
ACCEPTED_FORMATS = ", ".join(_FORMATS)


class _PngFile(PngImageFile):
    def load_read(self, read_bytes: int) -> bytes:
        """Return bytes of the pixel data; see `LimitedFile`."""
        data = super().load_read(read_bytes)
        if not data:
            raise EOFError
        return data


_READERS: dict[
    str, tuple[Callable[[BinaryIO, str, int], Encoded], Callable[[BinaryIO], ImageFile.ImageFile]]
] = {"PNG": (read_png, _PngFile), "WebP": (read_webp, WebPImageFile)}


def read_image(file: BinaryIO, name: str, max_pixels: int) -> tuple[Image.Image, tuple[str, ...]]:
    """Return the first frame of an encoded image, and warnings for the user.

    All pixels of the returned frame are in memory.

    Args:
        file: the encoded image. The file stays open; its position is undefined afterwards.
        name: the file's name in messages.
        max_pixels: cap on width times height.

    Raises:
        ImageError: the file cannot be read, the format is not accepted, the image is larger than
            `max_pixels`, or any byte is missing.
    """
    kind = "file"
    try:
        magic = file.read(16)
        if not magic:
            raise ImageError(f"{name} is empty; accepted formats: {ACCEPTED_FORMATS}")
        found = (kind for kind, start in _FORMATS.items() if re.match(start, magic, re.DOTALL))
        if (kind := next(found, "")) == "":
            raise ImageError(f"{name} is not an image of an accepted format: {ACCEPTED_FORMATS}")
        return _decode(file, kind, name, max_pixels)
    except (ImageError, MemoryError):
        raise
    except EOFError:
        raise truncated(name, kind) from None
    except Exception as error:  # decoders raise nearly every class of exception on hostile bytes
        if isinstance(error, OSError) and error.errno is not None:  # Pillow's errors have no number
            raise ImageError(f"{name} cannot be read ({error.strerror}); get it again") from error
        raise ImageError(
            f"{name} is truncated or damaged, or a kind of {kind} that is not supported; get it again, "
            f"or convert it (accepted formats: {ACCEPTED_FORMATS})"
        ) from error


def _decode(file: BinaryIO, kind: str, name: str, max_pixels: int) -> tuple[Image.Image, tuple[str, ...]]:
    if kind == "TIFF":
        return _decode_tiff(file, name, max_pixels)
    if kind == "JPEG":
        jpeg = read_jpeg(file, name, max_pixels)
        image, damaged = decode_jpeg(jpeg, name)
        image.info |= {"exif": jpeg.exif, "xmp": jpeg.xmp}
        return image, (_DAMAGED_JPEG.format(name),) if damaged else ()
    if kind in _READERS:
        read, plugin = _READERS[kind]
        encoded = read(file, name, max_pixels)
        image, animated = _load(plugin(encoded.file), encoded.exif, encoded.xmp), encoded.animated
    else:
        animated = kind == "GIF" and check_gif(file, name, max_pixels)
        file.seek(0)
        limited = LimitedFile(file, name, kind)
        image = (GifImageFile if kind == "GIF" else BmpImageFile)(cast("BinaryIO", limited))
        check_size(*image.size, max_pixels, name)
        limited.begin_pixels(image.width * image.height)
        image.load()
    return image, (f"{name} is animated: only its first frame is used",) if animated else ()


def _load(image: ImageFile.ImageFile, exif: bytes, xmp: bytes) -> Image.Image:
    image.load()
    image.info |= {"exif": exif, "xmp": xmp}
    return image


def _decode_tiff(file: BinaryIO, name: str, max_pixels: int) -> tuple[Image.Image, tuple[str, ...]]:
    file.seek(0)
    limited = LimitedFile(file, name, "TIFF", MAX_TIFF_BYTES)
    image = TiffFile(cast("BinaryIO", limited))
    check_size(*image.size, max_pixels, name)
    check_tiff(image, file, max_pixels, name)
    limited.begin_pixels(image.width * image.height)
    image.load()
    pages = (f"{name} has several pages: only the first is used",) if image.is_animated else ()
    return image, pages
