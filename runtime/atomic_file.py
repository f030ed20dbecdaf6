"""A file that appears whole or not at all, in a place that is known to be writable before the work begins."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import OptionError


@contextmanager
def write_atomically(path: Path, option: str) -> Iterator[Callable[[bytes], None]]:
    """A function that gives a file its content; until it is called, what was there stays.

    The content goes to a file beside it, made at once and gone in the end, which then takes its name.

    Args:
        path: the file; a link stays one, and what it leads to is replaced.
        option: how the user named it, for messages.

    Raises:
        OptionError: it is no regular file, or none can be written there.
    """
    try:
        final = Path(os.path.realpath(path))
        partial = final.with_name(f".{final.name[:50]}.{os.getpid()}.partial")  # a name has 255 bytes at most
        regular = final.is_file() or not final.exists()
        file = partial.open("wb")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "not a possible file name"
        raise OptionError(f"{path}: cannot be written ({why}); choose another {option}") from None

    def write(content: bytes) -> None:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())  # a file that has its name is whole, whatever happens next
        file.close()
        partial.replace(final)

    try:
        with file:
            if not regular:
                raise OptionError(f"{path}: is not a regular file; choose another {option}")
            yield write
    finally:
        partial.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Have the system put a file or folder on the disk, so that a power cut finds it whole."""
    if os.name != "posix" and path.is_dir():
        return  # Windows opens no folders
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
