"""Write the folder of a bundle atomically: write under a temporary name in the same folder, then rename.

.NAME.staging    the folder during writing; if an export is killed, the next export removes the folder
.NAME.previous   the bundle that --force replaces, between the two renames of `publish_folder`
.NAME.lock       locked while an export runs; the system releases the lock when the process ends
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import filelock

from paligemma_onnx.runtime.atomic_file import publish_folder
from paligemma_onnx.runtime.bundle.manifest import MANIFEST
from paligemma_onnx.runtime.bundle.schema import TENSOR_TABLE
from paligemma_onnx.runtime.errors import OptionError
from paligemma_onnx.runtime.interrupts import cleaning_up, deferring_signals

from ..sources.tokenizer_file import TOKENIZER

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
_SUFFIXES = (".onnx", ".data")  # graphs and weight files


@contextmanager
def staged_folder(output: Path, *, force: bool, marker: str = MANIFEST) -> Iterator[Path]:
    """Yield a folder, which is renamed to `output` if the block succeeds and removed if the block raises.

    Args:
        output: the final name.
        force: replace the existing folder if it contains an export and nothing else.
        marker: file that every export of this kind has.

    Raises:
        OptionError: the output exists and may not be replaced, is not a folder, or cannot be written; or
            another export is writing the output.
    """
    output = Path(os.path.abspath(output))  # noqa: PTH100  does not follow links; resolve() would
    if not output.name:
        raise OptionError(f"{output}: is not a valid name for a bundle; choose another --output")
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
            _check_replaceable(output, force=force, marker=marker)
            stack.enter_context(cleaning_up(partial(shutil.rmtree, staging, ignore_errors=True)))
            staging.mkdir()
            created = True
            yield staging
            publish_folder(staging, output)
    except filelock.Timeout:
        if not lock_file.exists():  # no file can be created, as in /proc
            raise OptionError(f"{output}: cannot be written; choose another --output") from None
        raise OptionError(f"{output}: another export is writing this bundle; wait for it to end") from None
    except OSError as error:
        if created or error.errno not in _UNWRITABLE:
            raise
        raise OptionError(
            f"{output}: cannot be written ({error.strerror}); choose another --output"
        ) from error


def _recover(output: Path, staging: Path, previous: Path) -> None:
    """Restore or remove the folders that a killed export left."""
    if previous.exists():
        if output.exists():
            shutil.rmtree(previous)
        else:
            previous.rename(output)
    if staging.exists():
        shutil.rmtree(staging)


def _check_replaceable(output: Path, *, force: bool, marker: str) -> None:
    """Raise OptionError if the output exists and may not be replaced.

    An empty folder may be replaced. A folder of an export with the same marker may be replaced if `force` is
    set.
    """
    if not os.path.lexists(output):
        return
    if not output.is_dir() or output.is_symlink():
        raise OptionError(f"{output}: exists and is not a folder; choose another --output")
    entries = sorted(output.iterdir())
    if not entries:
        return
    if not force:
        raise OptionError(f"{output}: exists already; choose another --output, or replace it with --force")
    written = _may_be_exported if marker == MANIFEST else _may_be_layout
    foreign = [entry.name for entry in entries if not written(entry)]
    if foreign or output / marker not in entries:
        kind = "is not a bundle" if marker == MANIFEST else f"has no {marker}"
        why = f"contains {foreign[0]!r}, which no export wrote" if foreign else kind
        raise OptionError(f"{output}: {why}, so --force does not replace it; choose another --output")


def _may_be_exported(entry: Path) -> bool:
    """Return whether an export writes files of this name.

    The content is not read, so that damaged bundles can be replaced.
    """
    known = entry.name in (MANIFEST, TOKENIZER, TENSOR_TABLE) or entry.suffix in _SUFFIXES
    return entry.is_file() and known


def _may_be_layout(entry: Path) -> bool:
    """Return whether an export for another tool writes files, or a folder, of this name."""
    if entry.name == "onnx":
        return entry.is_dir() and all(".onnx" in file.suffix for file in entry.iterdir())
    return entry.is_file() and (entry.suffix == ".json" or entry.suffix.startswith(".onnx"))
