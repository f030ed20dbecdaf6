"""A bundle appears whole or not at all: it is written beside its final name, then renamed.

.NAME.staging    being written; whatever an export that was killed left is removed by the next one
.NAME.previous   the bundle that --force replaces, for the moment between the two renames of `publish_folder`
.NAME.lock       held while an export runs; the system releases it when the process dies
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from paligemma_onnx.runtime.atomic_file import publish_folder
from paligemma_onnx.runtime.bundle.manifest import MANIFEST
from paligemma_onnx.runtime.bundle.schema import TENSOR_TABLE
from paligemma_onnx.runtime.errors import OptionError

from .manifest_facts import TOKENIZER

# What systems answer when a folder cannot be made or written.
_NO_PLACE = (
    errno.EACCES,
    errno.EEXIST,
    errno.EINVAL,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
)
_SUFFIXES = (".onnx", ".data")  # of graphs and their weights


@contextmanager
def staged_folder(output: Path, *, force: bool) -> Iterator[Path]:
    """A folder to write into, which becomes `output` if the block ends well and vanishes if it does not.

    Args:
        output: the final name.
        force: replace what is there, if it is a bundle and nothing else.

    Raises:
        OptionError: the output exists, is no folder, cannot be written, or is being exported to.
    """
    output = Path(os.path.abspath(output))  # noqa: PTH100  keeps links, which resolve() would follow
    if not output.name:
        raise OptionError(f"{output}: is no place for a bundle; choose another --output")
    staging, previous = (
        output.with_name(f".{output.name}.staging"),
        output.with_name(f".{output.name}.previous"),
    )
    prepared = False
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(output.with_name(f".{output.name}.lock"), timeout=0) as lock:
            try:
                _recover(output, staging, previous)
                _refuse(output, force=force)
                staging.mkdir()
                prepared = True
                try:
                    yield staging
                    publish_folder(staging, output)
                finally:
                    shutil.rmtree(staging, ignore_errors=True)
            finally:
                # Unlinked while it is still held: whoever opens the name later locks a new file.
                Path(lock.lock_file).unlink(missing_ok=True)
    except filelock.Timeout:
        if not output.with_name(f".{output.name}.lock").exists():  # a file system that takes no files
            raise OptionError(f"{output}: cannot be written; choose another --output") from None
        raise OptionError(f"{output}: another export is writing this bundle; wait for it to end") from None
    except OSError as error:
        if prepared or error.errno not in _NO_PLACE:
            raise
        raise OptionError(
            f"{output}: cannot be written ({error.strerror}); choose another --output"
        ) from error


def _recover(output: Path, staging: Path, previous: Path) -> None:
    """Finish what a killed export left undone."""
    if previous.exists():
        if output.exists():
            shutil.rmtree(previous)
        else:
            previous.rename(output)
    if staging.exists():
        shutil.rmtree(staging)


def _refuse(output: Path, *, force: bool) -> None:
    if not os.path.lexists(output):
        return
    if not output.is_dir() or output.is_symlink():
        raise OptionError(f"{output}: exists and is not a folder; choose another --output")
    entries = sorted(output.iterdir())
    if not entries:
        return
    if not force:
        raise OptionError(f"{output}: exists already; choose another --output, or replace it with --force")
    strange = [entry.name for entry in entries if not _is_of_a_bundle(entry)]
    if strange or output / MANIFEST not in entries:
        why = f"holds {strange[0]!r}, which no export wrote" if strange else "is not a bundle"
        raise OptionError(f"{output}: {why}, so --force does not replace it; choose another --output")


def _is_of_a_bundle(entry: Path) -> bool:
    """An export may have written it. The manifest is not asked: --force also replaces damaged bundles."""
    named = entry.name in (MANIFEST, TENSOR_TABLE, TOKENIZER)
    return entry.is_file() and (named or entry.suffix in _SUFFIXES)
