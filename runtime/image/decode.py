"""Decodes an encoded image completely or not at all.

Only the formats of an allow-list are accepted, and the size is checked before any pixel is decoded.
The plugin of the recognised format is called directly. `PIL.Image.open` would apply Pillow's size limit
instead of `max_pixels`. It would also print a warning about malformed EXIF, and open JPEGs with an embedded
preview (MPO) as animations.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import BinaryIO

from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from ..errors import ImageError
from .headers import check_size, check_tiff, gif_canvas, read_png, truncated, webp_canvas


class _JpegFile(JpegImageFile):
    def _read_dpi_from_exif(self) -> None:
        """Do nothing: the resolution is not needed, and Pillow would print a warning for malformed EXIF."""


# First bytes and plugin of each format.
_FORMATS: dict[str, tuple[bytes, Callable[[BinaryIO], ImageFile.ImageFile]]] = {
    "JPEG": (rb"\xff\xd8\xff", _JpegFile),  # ITU-T T.81, annex B: SOI, first byte of the next marker
    "PNG": (rb"\x89PNG\r\n\x1a\n", PngImageFile),  # PNG third edition, section 5.2
    "WebP": (rb"RIFF.{4}WEBP", WebPImageFile),  # RFC 9649, section 2.4
    "BMP": (rb"BM", BmpImageFile),
    "GIF": (rb"GIF8[79]a", GifImageFile),
    "TIFF": (rb"II[*+]\0|MM\0[*+]", TiffImageFile),  # TIFF 6.0, section 2, and BigTIFF
}
ACCEPTED_FORMATS = ", ".join(_FORMATS)


def read_image(file: BinaryIO, name: str, max_pixels: int) -> tuple[Image.Image, tuple[str, ...]]:
    """Return the first frame of an encoded image, and warnings for the user.

    All pixels of the returned frame are in memory.

    Args:
        file: the encoded image. The file stays open; its position is undefined afterwards.
        name: the file's name in messages.
        max_pixels: cap on width times height.

    Raises:
        ImageError: the format is not accepted, the image is larger than `max_pixels`, or any byte is missing.
    """
    magic = file.read(16)
    if not magic:
        raise ImageError(f"{name} is empty; accepted formats: {ACCEPTED_FORMATS}")
    kind = next((kind for kind, (start, _) in _FORMATS.items() if re.match(start, magic, re.DOTALL)), None)
    if kind is None:
        raise ImageError(f"{name} is not an image of an accepted format: {ACCEPTED_FORMATS}")
    try:
        return _decode(file, kind, name, max_pixels)
    except (ImageError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{name} is larger than Pillow allows for {kind}; make it smaller, convert it to PNG, or raise "
            f"PIL.Image.MAX_IMAGE_PIXELS, which is {Image.MAX_IMAGE_PIXELS:,}"
        ) from error
    except Exception as error:  # decoders raise nearly every class of exception on hostile bytes
        raise ImageError(
            f"{name} is truncated or damaged, or a kind of {kind} that is not supported; get it again, "
            f"or convert it (accepted formats: {ACCEPTED_FORMATS})"
        ) from error


def _decode(file: BinaryIO, kind: str, name: str, max_pixels: int) -> tuple[Image.Image, tuple[str, ...]]:
    animated = False
    if kind == "PNG":
        file, animated = read_png(file, name, max_pixels)
    elif size := webp_canvas(file) if kind == "WebP" else gif_canvas(file) if kind == "GIF" else None:
        check_size(*size, max_pixels, name)
        if kind == "WebP":
            # libwebp reports short memory as damage: try to allocate its two canvases of 4 bytes per pixel.
            bytearray(2 * 4 * size[0] * size[1])
    file.seek(0)
    image = _FORMATS[kind][1](file)
    check_size(*image.size, max_pixels, name)
    if isinstance(image, TiffImageFile):
        check_tiff(file, image.tag_v2, max_pixels, name)
    _refuse_missing_bytes(image, kind, name)
    image.load()
    # Looking for a second frame makes the GIF plugin discard the pixels of the first.
    frame = image.copy() if kind == "GIF" else image
    if not (animated or _has_second_frame(image)):
        return frame, ()
    if kind == "TIFF":
        return frame, (f"{name} has several pages: only the first is used",)
    return frame, (f"{name} is animated: only its first frame is used",)


def _refuse_missing_bytes(image: ImageFile.ImageFile, kind: str, name: str) -> None:
    """Make `image.load` raise if the file ends too soon, even under `ImageFile.LOAD_TRUNCATED_IMAGES`.

    If `LOAD_TRUNCATED_IMAGES` is true, Pillow pads the missing bytes with grey. This global belongs to the
    host application and to all its threads: the function does not rely on the global and does not change it.
    `ImageFile.load` reads the file through the hook `load_read`, which this function replaces.
    """
    if kind == "WebP" or image.fp is None:
        return  # libwebp decodes the whole file and refuses a short one
    read: Callable[[int], bytes] = image.load_read if isinstance(image, PngImageFile) else image.fp.read

    def load_read(count: int) -> bytes:
        data = read(count)
        if not data:
            raise truncated(name, kind)
        return data

    image.load_read = load_read  # type: ignore[attr-defined]


def _has_second_frame(image: ImageFile.ImageFile) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # a damaged second frame does not matter: the first is complete
        return False
