"""Recognize library errors about exhausted memory, disk space or file descriptors, and translate them."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import ResourceError

_FILES = (errno.EMFILE, errno.ENFILE)
# From onnxruntime: strerror(EMFILE), or the number of EMFILE or ENFILE on Linux.
_FILES_TEXT = re.compile(r"too many open files|system error number 2[34]\b", re.IGNORECASE)
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# torch, onnxruntime and the dynamic linker raise general errors: only their text is specific.
_MEMORY = re.compile(
    r"bad_?\s?alloc|alloc[\w ]*failed|(fail\w*|unable) to allocate|can(no|')t allocate|out of memory|"
    r"can't start new thread|PosixThread|failed to map segment",
    re.IGNORECASE,
)
# onnxruntime reached the limit that --gpu-memory sets.
_LIMIT = re.compile(r"available memory of \d+ is smaller than requested", re.IGNORECASE)
_REQUESTED = re.compile(
    r"(?:of size|to allocate|requested bytes of)\s+([\d.]+ ?(?:[KMGTP]iB|bytes)?)", re.IGNORECASE
)
# From Python's tempfile if no folder is writable, and from NumPy if a file does not take a whole array.
_DISK_TEXT = re.compile(r"No usable temporary directory|requested and \d+ written")


def resource_problem(error: BaseException, *, device: str = "cpu") -> str | None:
    """Return a line that names the exhausted resource and the remedy.

    If neither the error nor one of its causes is about such a resource, return None.

    Args:
        error: exception that a library raised.
        device: `cpu` or `cuda`, the device that the library used. onnxruntime writes the same text for CPU
            memory and for GPU memory.
    """
    cause: BaseException | None = error
    while cause is not None:
        if message := _message(cause, device):
            return message
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return None


@contextmanager
def translate_resource_errors(place: str) -> Iterator[None]:
    """Translate the libraries' errors about exhausted memory, disk space or file descriptors.

    Args:
        place: file, folder or task that the message names.

    Raises:
        ResourceError: a resource ran out. Other errors of the block are not changed.
    """
    try:
        yield
    except ResourceError:
        raise
    except Exception as error:
        if message := resource_problem(error):
            raise ResourceError(f"{place}: {message}") from error
        raise


def _message(error: BaseException, device: str) -> str | None:
    if hasattr(error, "exit_code"):
        return None  # raised by this package: its text may quote a file
    text = str(error)
    if isinstance(error, OSError) and (error.errno in _DISK or _DISK_TEXT.search(text)):
        return "the disk (or that of TMPDIR) is full, or a file may not grow; free space there"
    if (isinstance(error, OSError) and error.errno in _FILES) or _FILES_TEXT.search(text):
        return "too many open files; close files, or raise the limit (ulimit -n)"
    match = _REQUESTED.search(text)
    amount = f" ({_in_megabytes(match[1])} more are needed)" if match else ""
    if _LIMIT.search(text):
        return f"out of the GPU memory that is allowed{amount}; process less at once, or raise the limit"
    is_main_memory = isinstance(error, MemoryError) or (
        isinstance(error, OSError) and error.errno == errno.ENOMEM
    )
    if not is_main_memory and not _MEMORY.search(text):
        return None
    is_gpu_memory = device == "cuda" and not is_main_memory
    return (
        f"out of GPU memory{amount}; process less at once, or use another GPU (--device cuda:N)"
        if is_gpu_memory
        else f"out of memory{amount}; close other programs, or process less at once"
    )


def _in_megabytes(amount: str) -> str:
    """Return `4294967296` and `4294967296 bytes` as `4,295.0 MB`; an amount in another unit is unchanged."""
    digits = amount.removesuffix("bytes").strip()
    return f"{int(digits) / 1e6:,.1f} MB" if digits.isdigit() else amount
