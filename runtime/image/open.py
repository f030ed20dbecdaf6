"""Open an image from a path, bytes, a Pillow image or an array, as RGB in its displayed orientation."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..errors import ImageError, OptionError, ResourceError, quote
from .decode import read_image
from .exif import orientation, upright
from .headers import check_size
from .preprocess import preprocess, to_rgb

__all__ = ["DEFAULT_MAX_PIXELS", "ImageInput", "OpenedImage", "open_image", "preprocess"]

# A path, the bytes of an encoded file, a Pillow image, or an array uint8[height, width] or
# [height, width, 1] (grey), [height, width, 3] (RGB) or [height, width, 4] (RGB and alpha).
ImageInput: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[Any]

# Pixels, width times height: Pillow's default of PIL.Image.MAX_IMAGE_PIXELS, a quarter of a GiB at 3 bytes
# per pixel.
DEFAULT_MAX_PIXELS = 1024 * 1024 * 1024 // 4 // 3

_ACCEPTED_ARRAYS = (
    "an array must be uint8 of shape [height, width] or [height, width, channels] with 1, 3 or 4 channels"
)
_PERMISSIONS = "check the permissions of the file and of its folders"
_REMEDIES = {
    errno.ELOOP: "give the image itself, not a link",
    errno.EACCES: _PERMISSIONS,
    errno.EPERM: _PERMISSIONS,
}
_MAX_NAME = 200  # characters of a file name in a message


@dataclass(frozen=True)
class OpenedImage:
    """An image in its displayed orientation, and the warnings that arose when it was opened."""

    rgb: Image.Image  # mode RGB, upright, without any metadata
    warnings: tuple[str, ...] = ()  # one line each

    @property
    def width(self) -> int:
        """Pixels in the displayed orientation."""
        return self.rgb.width

    @property
    def height(self) -> int:
        """Pixels in the displayed orientation."""
        return self.rgb.height


def open_image(source: ImageInput, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> OpenedImage:
    """Open the first frame of an image; `source` is not modified.

    Args:
        source: a path or the bytes of a JPEG, PNG, WebP, BMP, GIF or TIFF file, a Pillow image, or an array
            of uint8. The current frame of a Pillow image is used. The EXIF orientation of a file or of a
            Pillow image is applied.
        max_pixels: cap on width times height, at least 1. The size is checked before decoding.

    Raises:
        ImageError: the image is missing, damaged, truncated, larger than `max_pixels`, or of a format, mode,
            shape or dtype that is not accepted. ImageError is a subclass of ValueError.
        OptionError: `max_pixels` is not a positive whole number.
        ResourceError: out of memory.
    """
    if isinstance(max_pixels, bool) or not isinstance(max_pixels, Integral) or max_pixels < 1:
        raise OptionError(f"max_image_pixels is {quote(max_pixels)}, expected a whole number of at least 1")
    name = _name(source)
    try:
        image, warnings = _load(source, name, max_pixels)
        try:
            stated = orientation(image.info.get("exif", b""), image.info.get("xmp", b""))
        except (ValueError, TypeError, AttributeError):  # a caller's Pillow image may hold any object there
            stated = 1
            warnings += (f"{name} has malformed EXIF data: it is ignored, the image is taken as upright",)
        return OpenedImage(upright(to_rgb(image, name), stated), warnings)
    except MemoryError as error:
        raise ResourceError(f"not enough memory to open {name}; make the image smaller") from error


def _load(source: ImageInput, name: str, max_pixels: int) -> tuple[Image.Image, tuple[str, ...]]:
    if isinstance(source, Image.Image):
        return _loaded(source, name, max_pixels), ()
    if isinstance(source, np.ndarray):
        return _from_array(source, name, max_pixels), ()
    with _opened(source, name) as file:
        return read_image(file, name, max_pixels)


def _name(source: ImageInput) -> str:
    """Return the name of the source for messages: one line of printable characters."""
    if isinstance(source, Image.Image):
        return "the Pillow image"
    if isinstance(source, np.ndarray):
        return "the array"
    if isinstance(source, bytes):
        return f"the image of {len(source)} bytes"
    if not isinstance(source, str | os.PathLike):
        raise ImageError(
            f"an image cannot be of type {type(source).__name__}: give a path, the bytes of a file, "
            f"a Pillow image or an array ({_ACCEPTED_ARRAYS})"
        )
    # A name that is not UTF-8 contains surrogates, which cannot be printed; others contain line breaks.
    printable = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in os.fsdecode(source)
    )
    spaced = any(part != part.strip() for part in printable.split("/"))
    if len(printable) > _MAX_NAME:
        printable = printable[: _MAX_NAME // 2] + "..." + printable[-_MAX_NAME // 2 :]
    if spaced:
        return f"'{printable}'"  # a space at the end of a name would not be seen
    return printable or "the empty file name"


@contextmanager
def _opened(source: str | os.PathLike[str] | bytes, name: str) -> Iterator[BinaryIO]:
    """Open the source for reading.

    Raises:
        ImageError: the source cannot be opened, or is a pipe or a device, which might never end.
    """
    if isinstance(source, bytes):
        yield io.BytesIO(source)
        return
    path = Path(os.fsdecode(source))
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise ImageError(f"{name} is a folder; give the path of an image")
        if not stat.S_ISREG(mode):
            raise ImageError(f"{name} is a pipe, socket or device; save the image to a file first")
        file = path.open("rb")
    except FileNotFoundError:
        missing = "is a link to a file that does not exist" if path.is_symlink() else "does not exist"
        raise ImageError(f"{name} {missing}; check the path") from None
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "check the path")
        raise ImageError(f"{name} cannot be opened: {error.strerror}; {remedy}") from error
    except ImageError:
        raise
    except ValueError as error:  # a NUL, or a lone surrogate
        raise ImageError(f"{name} is not a possible file name; check the path") from error
    with file:
        yield file


def _loaded(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    check_size(image.width, image.height, max_pixels, name)
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as error:  # each of Pillow's plugins raises other classes
        raise ImageError(
            f"{name} cannot be read: it was closed, or its file is truncated or damaged"
        ) from error
    return image


def _from_array(array: npt.NDArray[Any], name: str, max_pixels: int) -> Image.Image:
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in (1, 3, 4):
        raise ImageError(f"{_ACCEPTED_ARRAYS}, not {array.dtype} of shape {list(array.shape)}")
    check_size(array.shape[1], array.shape[0], max_pixels, name)
    levels = array.reshape(array.shape[:2]) if channels == 1 else array
    return Image.fromarray(np.ascontiguousarray(levels))
