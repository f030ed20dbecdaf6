"""Keep Pillow and libtiff from printing lines of their own about damaged images."""

from __future__ import annotations

import ctypes
import logging
from contextlib import suppress
from pathlib import Path

from PIL import TiffImagePlugin


def silence_libraries() -> None:
    """Discard Pillow's log messages, and on Linux libtiff's messages, in the whole process.

    The ImageError that this package raises contains the same information. A program with other users of
    Pillow should not call this function.
    """
    logging.getLogger(TiffImagePlugin.__name__).addHandler(logging.NullHandler())
    with suppress(OSError, AttributeError):  # another system, or a libtiff that is linked into Pillow
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        for library in {line.split(maxsplit=5)[-1] for line in lines if "libtiff" in line}:
            ctypes.CDLL(library).TIFFSetErrorHandler(None)
