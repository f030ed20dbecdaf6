"""Writing of files and folders that appear under their final name either complete or not at all.

Content is written under a temporary name in the same folder, flushed to the disk and renamed. If the process
is killed, the temporary name may remain. The final name then has the previous content or the new content, or
does not exist.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO

import filelock

from .errors import OptionError
from .interrupts import cleaning_up, deferring_signals

# The disk or a quota is full, or a file may not grow.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Characters of the final name that the temporary name contains: file systems limit a name to 255 bytes.
MAX_NAME_CHARACTERS = 50
# Errors that the system reports if a folder cannot be created or written.
_UNWRITABLE = (
    errno.EACCES,
    errno.EEXIST,
    errno.EINVAL,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
)


@contextmanager
def write_atomically(path: Path, *, locked: bool = False) -> Iterator[BinaryIO]:
    """Open a temporary file. If the block ends without an error, rename the file to `path`.

    The temporary file is created on entry, so that a folder that cannot be written is reported before the
    work. If the block raises, the temporary file is removed and the previous file stays.

    Args:
        path: the final name. A symbolic link stays; the file that it points to is replaced.
        locked: True: the caller holds a lock on `path`, and the temporary name is `.NAME.writing`. If a
            killed process leaves this file, the next call overwrites it. False: the temporary name contains
            the process id, so that processes that write `path` at the same time do not mix their content.

    Raises:
        OSError: `path` exists and is not a regular file, or the temporary file cannot be created.
        ValueError: `path` contains a NUL.
    """
    final = Path(os.path.realpath(path))
    if final.exists() and not final.is_file():
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    writer = "" if locked else f".{os.getpid()}"
    temporary = final.with_name(f".{final.name.lstrip('.')[:MAX_NAME_CHARACTERS]}{writer}.writing")
    with cleaning_up(partial(temporary.unlink, missing_ok=True)):
        try:
            with temporary.open("wb") as file, cleaning_up(file.close):  # Windows removes only closed files
                yield file
                file.flush()
                os.fsync(file.fileno())  # before the rename: the name must not survive a power cut without it
            temporary.replace(final)
        except OSError as error:
            if error.errno in DISK_ERRORS and error.filename is None:
                error.filename = str(path)  # for the message
            raise


@contextmanager
def staged_folder(
    output: Path, *, force: bool, refusal: Callable[[Sequence[Path]], str | None]
) -> Iterator[Path]:
    """Yield a folder, which is renamed to `output` if the block succeeds and removed if the block raises.

    .NAME.staging    the folder during writing; if the process is killed, the next call removes the folder
    .NAME.previous   the folder that is replaced, between the two renames of `publish_folder`
    .NAME.lock       locked during the block; the system releases the lock when the process ends

    Args:
        output: the final name.
        force: replace an existing folder that is not empty.
        refusal: called with the sorted entries of that folder; returns why it may not be replaced, or None.

    Raises:
        OptionError: the output exists and may not be replaced, is not a folder, or cannot be written; or
            another process is writing the output.
    """
    output = Path(os.path.abspath(output))  # noqa: PTH100  does not follow links; resolve() would
    if not output.name:
        raise OptionError(f"{output}: is not a valid name for a folder; choose another --output")
    staging = output.with_name(f".{output.name}.staging")
    previous = output.with_name(f".{output.name}.previous")
    lock_file = output.with_name(f".{output.name}.lock")
    created = False
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            with deferring_signals():
                stack.enter_context(filelock.FileLock(lock_file, timeout=0))
                # The file is unlinked before the lock is released. A process that opens the name later
                # locks a new file.
                stack.enter_context(cleaning_up(partial(lock_file.unlink, missing_ok=True)))
            _recover(output, staging, previous)
            _check_replaceable(output, force=force, refusal=refusal)
            stack.enter_context(cleaning_up(partial(shutil.rmtree, staging, ignore_errors=True)))
            staging.mkdir()
            created = True
            yield staging
            publish_folder(staging, output)
    except filelock.Timeout:
        if not lock_file.exists():  # no file can be created, as in /proc
            raise OptionError(f"{output}: cannot be written; choose another --output") from None
        raise OptionError(f"{output}: another process is writing this folder; wait for it to end") from None
    except OSError as error:
        if created or error.errno not in _UNWRITABLE:
            raise
        raise OptionError(
            f"{output}: cannot be written ({error.strerror}); choose another --output"
        ) from error


def publish_folder(staging: Path, final: Path) -> None:
    """Rename a complete folder to its final name, replacing the folder that has this name.

    Between the two renames the replaced folder has the name of `staging` with the suffix `.previous`. If the
    process is killed between the renames, the replaced folder keeps this name. Several processes may publish
    to the same name at the same time; the folder of the last process stays. A process that has mapped files
    of a replaced folder can still read these files.

    Args:
        staging: the folder, in the same parent as `final`. Its name must be unique among the processes that
            publish to `final`, or `final` must be locked.
        final: the final name of the folder.
    """
    for path in staging.rglob("*"):
        sync(path)
    sync(staging)
    previous = staging.with_suffix(".previous")
    with deferring_signals():
        while True:
            with suppress(FileNotFoundError):
                final.rename(previous)
            try:
                staging.rename(final)
                break
            except BaseException as error:  # includes KeyboardInterrupt, which may arrive after the rename
                taken = final.exists()
                if not taken and previous.exists():
                    previous.rename(final)
                if not taken or not isinstance(error, OSError):
                    raise
                shutil.rmtree(previous, ignore_errors=True)  # another process published in between
        sync(final.parent)
        shutil.rmtree(previous, ignore_errors=True)


@contextmanager
def temporary_folder(
    parent: Path | None = None, prefix: str = "paligemma-onnx-", suffix: str = ""
) -> Iterator[Path]:
    """Yield a new folder with a unique name, which is removed at the end of the block.

    Args:
        parent: where to create the folder; None: the system's folder for temporary files.
        prefix: start of the name.
        suffix: end of the name.

    Raises:
        OSError: the folder cannot be created.
    """
    with ExitStack() as stack:
        with deferring_signals():
            folder = Path(tempfile.mkdtemp(suffix, prefix, parent))
            stack.enter_context(cleaning_up(partial(shutil.rmtree, folder, ignore_errors=True)))
        yield folder


def sync(path: Path) -> None:
    """Flush a file or folder to the disk, so that its content survives a power cut."""
    if os.name != "posix" and path.is_dir():
        return  # Windows cannot open folders
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _recover(output: Path, staging: Path, previous: Path) -> None:
    """Restore or remove the folders that a killed process left."""
    if previous.exists():
        if output.exists():
            shutil.rmtree(previous)
        else:
            previous.rename(output)
    if staging.exists():
        shutil.rmtree(staging)


def _check_replaceable(output: Path, *, force: bool, refusal: Callable[[Sequence[Path]], str | None]) -> None:
    """Raise OptionError if the output exists and may not be replaced. An empty folder may be replaced."""
    if not os.path.lexists(output):
        return
    if not output.is_dir() or output.is_symlink():
        raise OptionError(f"{output}: exists and is not a folder; choose another --output")
    entries = sorted(output.iterdir())
    if not entries:
        return
    if not force:
        raise OptionError(f"{output}: exists already; choose another --output, or replace it with --force")
    if why := refusal(entries):
        raise OptionError(f"{output}: {why}, so --force does not replace it; choose another --output")
