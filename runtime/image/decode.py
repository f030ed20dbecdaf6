"""Reads an encoded picture whole or not at all: an allow-list of formats, the size before any pixel.

The plugin of the recognised format is called directly, not by way of `PIL.Image.open`: what is not on the
list is never parsed, and the cap is ours, whatever the host application set in Pillow's globals.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from ..errors import ImageError
from .headers import check_size, check_tiff, gif_canvas, truncated, webp_canvas, whole_png

ACCEPTED_FORMATS = "JPEG, PNG, WebP, BMP, GIF, TIFF"

_MAGIC = {
    b"\xff\xd8\xff": "JPEG",  # ITU-T T.81, annex B: SOI, then the first byte of the next marker
    b"\x89PNG\r\n\x1a\n": "PNG",  # PNG third edition, section 5.2
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",  # TIFF 6.0, section 2
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",  # BigTIFF
    b"MM\0+": "TIFF",
}

_pillow_cap_lock = threading.Lock()


class _JpegFile(JpegImageFile):
    def _read_dpi_from_exif(self) -> None:
        """Nothing: the resolution is of no use here, and malformed EXIF would print a warning of Pillow's."""


_PLUGINS: dict[str, Callable[[BinaryIO], ImageFile.ImageFile]] = {
    "JPEG": _JpegFile,
    "PNG": PngImageFile,
    "WebP": WebPImageFile,
    "BMP": BmpImageFile,
    "GIF": GifImageFile,
    "TIFF": TiffImageFile,
}


def read_image(file: BinaryIO, name: str, max_pixels: int) -> tuple[Image.Image, tuple[str, ...]]:
    """The first frame of an encoded picture, all its pixels in memory, and warnings for the user.

    `file` stays open and its position is undefined afterwards; `name` stands for it in messages. Raises
    ImageError where the format is not accepted, the header passes `max_pixels`, or any byte is missing.
    """
    magic = file.read(16)
    if not magic:
        raise ImageError(f"{name} is empty; accepted formats: {ACCEPTED_FORMATS}")
    kind = _recognise(magic)
    if kind is None:
        raise ImageError(f"{name} is not a picture of an accepted format: {ACCEPTED_FORMATS}")
    try:
        return _decode(file, kind, name, max_pixels)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # decoders fed with hostile bytes raise nearly every class there is
        raise ImageError(
            f"{name} is truncated or damaged, or a kind of {kind} that is not supported; get it anew, "
            f"or convert it (accepted formats: {ACCEPTED_FORMATS})"
        ) from error


def _recognise(magic: bytes) -> str | None:
    if magic[:4] == b"RIFF" and magic[8:12] == b"WEBP":  # RFC 9649, section 2.4
        return "WebP"
    return next((kind for start, kind in _MAGIC.items() if magic.startswith(start)), None)


def _decode(file: BinaryIO, kind: str, name: str, max_pixels: int) -> tuple[Image.Image, tuple[str, ...]]:
    several = False
    size: tuple[int, int] | None = None
    if kind == "PNG":
        file, several = whole_png(file, name, max_pixels)
    elif kind == "WebP":
        size = webp_canvas(file)  # Pillow's plugin allocates the canvas on opening
    elif kind == "GIF":
        size = gif_canvas(file)  # and this one may allocate the first frame
    if size is not None:
        check_size(*size, max_pixels, name)
    if size is not None and kind == "WebP":
        # libwebp calls short memory a damaged file: ask first for its two canvases of 4 bytes a pixel
        bytearray(2 * 4 * size[0] * size[1])
    file.seek(0)
    with _pillow_cap_at_least(size):
        image = _PLUGINS[kind](file)
    check_size(*image.size, max_pixels, name)
    if isinstance(image, TiffImageFile):
        check_tiff(file, image.tag_v2, max_pixels, name)
    _refuse_missing_bytes(image, kind, name)
    with _pillow_cap_at_least(image.size):
        image.load()
        # Looking for a second frame makes Pillow forget the pixels of the first, in GIF.
        frame = image.copy() if kind == "GIF" else image
        several = several or _has_second_frame(image)
    if not several:
        return frame, ()
    if kind == "TIFF":
        return frame, (f"{name} has several pages: only the first is used",)
    return frame, (f"{name} is animated: only its first frame is used",)


def _refuse_missing_bytes(image: ImageFile.ImageFile, kind: str, name: str) -> None:
    """Makes `image.load` raise where the file ends too soon, even under `LOAD_TRUNCATED_IMAGES`.

    That Pillow global pads with grey what is missing; it belongs to the host application and to all its
    threads, so it is neither trusted nor changed. `load_read` is the hook that `ImageFile.load` reads from.
    """
    if kind == "WebP" or image.fp is None:
        return  # decoded by libwebp from the whole file, which refuses a short one
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
    except Exception:  # a damaged second frame is nothing to us: the first is complete
        return False


@contextmanager
def _pillow_cap_at_least(size: tuple[int, int] | None) -> Iterator[None]:
    """Lets a size that passed our cap also pass Pillow's, which is one global of the process.

    The global is touched only where the caller's cap was raised over it and a picture needs that. One thread
    at a time may do so; other users of Pillow see the higher cap for as long as this picture is decoded.
    """
    pixels = 0 if size is None else size[0] * size[1]
    with _pillow_cap_lock:
        before = Image.MAX_IMAGE_PIXELS
        if before is not None and pixels > before:
            Image.MAX_IMAGE_PIXELS = pixels
            try:
                yield
            finally:
                Image.MAX_IMAGE_PIXELS = before
            return
    yield
