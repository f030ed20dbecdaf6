"""Opens whatever a user calls a picture: upright RGB pixels, or one line that says what is wrong."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..errors import ImageError, OptionError, ResourceError
from .decode import read_image
from .exif import exif_orientation, upright
from .headers import check_size
from .preprocess import preprocess, to_rgb

__all__ = ["DEFAULT_MAX_PIXELS", "ImageInput", "OpenedImage", "open_image", "preprocess"]

# A path, an encoded file held in memory, a Pillow image, or an array uint8[H, W], [H, W, 1], [H, W, 3] (RGB)
# or [H, W, 4] (RGB and alpha).
ImageInput: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[Any]

# Pixels, width times height. The default of Pillow's own PIL.Image.MAX_IMAGE_PIXELS: a quarter of a GiB at
# 3 bytes each.
DEFAULT_MAX_PIXELS = 1024 * 1024 * 1024 // 4 // 3

_ACCEPTED_ARRAYS = "an array must be uint8 of shape [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]"
_LONGEST_NAME = 200  # characters of a file name that a message repeats


@dataclass(frozen=True)
class OpenedImage:
    """A picture as a person sees it, and what they should know about how it was opened."""

    rgb: Image.Image  # mode RGB, upright, without any metadata
    warnings: tuple[str, ...] = ()  # one line each

    @property
    def width(self) -> int:
        """Pixels, in the displayed orientation."""
        return self.rgb.width

    @property
    def height(self) -> int:
        """Pixels, in the displayed orientation."""
        return self.rgb.height


def open_image(source: ImageInput, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> OpenedImage:
    """Open the first frame of a picture; nothing given is modified.

    A file or its bytes may be JPEG, PNG, WebP, BMP, GIF or TIFF. A Pillow image is taken as it stands: of an
    animation, its current frame. What EXIF says of the orientation is applied once, also to Pillow images.

    Raises:
        ImageError: the picture is missing, damaged, truncated, larger than `max_pixels` (told by the header,
            before decoding), of a format, mode, shape or dtype that is not accepted. It is a ValueError.
        OptionError: `max_pixels` is not a positive whole number.
        ResourceError: out of memory.
    """
    if isinstance(max_pixels, bool) or not isinstance(max_pixels, int) or max_pixels < 1:
        raise OptionError(f"max_image_pixels is {max_pixels!r}, expected a whole number of at least 1")
    name = _name(source)
    try:
        image, warnings = _load(source, name, max_pixels)
        try:
            orientation = exif_orientation(image.info.get("exif", b""))
        except (ValueError, TypeError, AttributeError):  # not even bytes, in a Pillow image of the user's
            orientation = 1
            warnings += (f"{name} has malformed EXIF data: it is ignored, the picture is taken as upright",)
        return OpenedImage(upright(to_rgb(image, name), orientation), warnings)
    except MemoryError as error:
        raise ResourceError(f"not enough memory to open {name}; make the picture smaller") from error


def _load(source: ImageInput, name: str, max_pixels: int) -> tuple[Image.Image, tuple[str, ...]]:
    if isinstance(source, Image.Image):
        return _loaded(source, name, max_pixels), ()
    if isinstance(source, np.ndarray):
        return _from_array(source, name, max_pixels), ()
    with _opened(source, name) as file:
        return read_image(file, name, max_pixels)


def _name(source: ImageInput) -> str:
    """How messages call the source: always one line of printable characters."""
    if isinstance(source, Image.Image):
        return "the Pillow image"
    if isinstance(source, np.ndarray):
        return "the array"
    if isinstance(source, bytes):
        return f"the picture given as {len(source)} bytes"
    if not isinstance(source, str | os.PathLike):
        raise ImageError(
            f"a picture cannot be of type {type(source).__name__}: give a path, the bytes of a file, "
            f"a Pillow image or an array ({_ACCEPTED_ARRAYS})"
        )
    # A name that is not UTF-8 holds surrogates, which no terminal takes; one may also hold line breaks.
    shown = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in os.fsdecode(source)
    )
    if len(shown) > _LONGEST_NAME:
        shown = shown[: _LONGEST_NAME // 2] + "..." + shown[-_LONGEST_NAME // 2 :]
    return shown or "the empty file name"


@contextmanager
def _opened(source: str | os.PathLike[str] | bytes, name: str) -> Iterator[BinaryIO]:
    """The source as a file to read from; never a pipe or a device, which might not end. Raises ImageError."""
    if isinstance(source, bytes):
        yield io.BytesIO(source)
        return
    path = Path(os.fsdecode(source))
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise ImageError(f"{name} is a folder; give the path of one picture")
        if not stat.S_ISREG(mode):
            raise ImageError(f"{name} is a pipe, socket or device; save the picture to a file first")
        file = path.open("rb")
    except FileNotFoundError:
        missing = "is a link to a file that does not exist" if path.is_symlink() else "does not exist"
        raise ImageError(f"{name} {missing}; check the path") from None
    except OSError as error:
        raise ImageError(f"{name} cannot be opened: {error.strerror}") from error
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
    except Exception as error:  # as many classes as Pillow has plugins
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
