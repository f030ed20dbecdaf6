"""Files and folders that appear under their final name complete or not at all.

Content is written under a temporary name in the same folder, flushed to the disk and renamed. A process that
is killed leaves the temporary name; the final name has the previous content, the new one, or does not exist.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

MAX_NAME_CHARACTERS = 50  # of the final name in the temporary one: file systems limit a name to 255 bytes


@contextmanager
def write_atomically(path: Path, *, locked: bool = False) -> Iterator[BinaryIO]:
    """Open a temporary file that takes the name `path` when the block ends, unless it raises.

    The temporary file is created on entry, so that a folder that cannot be written is reported before the
    work. If the block raises, the temporary file is removed and the previous file stays.

    Args:
        path: the final name. A symbolic link stays; the file that it points to is replaced.
        locked: the caller holds a lock on `path`. The temporary name is then `.NAME.writing`, which the next
            call overwrites if a killed process left it; otherwise it contains the process id, so that
            processes that write the same path at the same time do not mix their content.

    Raises:
        OSError: `path` exists and is not a regular file, or the temporary file cannot be created.
        ValueError: `path` contains a NUL.
    """
    final = Path(os.path.realpath(path))
    if final.exists() and not final.is_file():
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    writer = "" if locked else f".{os.getpid()}"
    temporary = final.with_name(f".{final.name.lstrip('.')[:MAX_NAME_CHARACTERS]}{writer}.writing")
    file = temporary.open("wb")
    try:
        with file:
            yield file
            file.flush()
            os.fsync(
                file.fileno()
            )  # before the rename: the name must not survive a power cut without the bytes
        temporary.replace(final)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def publish_folder(staging: Path, final: Path) -> None:
    """Rename a complete folder to its final name, replacing the folder that has this name.

    Between the two renames the replaced folder has the name of `staging` with the suffix `.previous`; if the
    process is killed there, it keeps that name. Several processes may publish to the same name at the same
    time; the last folder stays. A process that has mapped files of a replaced folder can still read them.

    Args:
        staging: the folder, in the same parent as `final`. Its name must be unique among the processes that
            publish to `final`, or `final` must be locked.
        final: the name to take.
    """
    for file in staging.iterdir():
        sync(file)
    sync(staging)
    previous = staging.with_suffix(".previous")
    while True:
        with suppress(FileNotFoundError):
            final.rename(previous)
        try:
            staging.rename(final)
            break
        except BaseException as error:  # a signal, too, which may arrive after the rename
            taken = final.exists()
            if not taken and previous.exists():
                previous.rename(final)
            if not taken or not isinstance(error, OSError):
                raise
            shutil.rmtree(previous, ignore_errors=True)  # another process published in between
    sync(final.parent)
    shutil.rmtree(previous, ignore_errors=True)


def sync(path: Path) -> None:
    """Flush a file or folder to the disk, so that its content survives a power cut."""
    if os.name != "posix" and path.is_dir():
        return  # Windows cannot open folders
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
