"""What running out of memory or disk looks like in the libraries underneath, said in our words."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import ResourceError

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Only the text tells: torch, onnxruntime and the dynamic linker raise general errors.
_MEMORY = re.compile(
    r"bad_?\s?alloc|alloc[\w ]*failed|(fail\w*|unable) to allocate|can(no|')t allocate|out of memory|"
    r"can't start new thread|PosixThread|failed to map segment",
    re.IGNORECASE,
)
_LIMIT = re.compile(r"available memory of \d+ is smaller than requested", re.IGNORECASE)  # the engine's own
_WANTED = re.compile(
    r"(?:of size|to allocate|requested bytes of)\s+([\d.]+ ?(?:[KMGTP]iB|bytes)?)", re.IGNORECASE
)
# Python's tempfile when no folder takes a byte, and NumPy when a file does not take all of an array.
_DISK_TEXT = re.compile(r"No usable temporary directory|requested and \d+ written")


def resource_problem(error: BaseException, *, device: str = "cpu") -> str | None:
    """What ran out and what mends it, in one line; None where an error and its causes are of another kind.

    Args:
        error: what a library raised.
        device: where it ran: the engine says the same of a GPU's memory and of the machine's.
    """
    cause: BaseException | None = error
    while cause is not None:
        if words := _shortage(cause, device):
            return words
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return None


@contextmanager
def translate_resource_errors(where: str) -> Iterator[None]:
    """Name the place where memory or disk ran out.

    Raises:
        ResourceError: in place of whatever a library raised for it.
    """
    try:
        yield
    except ResourceError:
        raise
    except Exception as error:
        if words := resource_problem(error):
            raise ResourceError(f"{where}: {words}") from error
        raise


def _shortage(error: BaseException, device: str) -> str | None:
    if hasattr(error, "exit_code"):
        return None  # an error of ours: its text may quote a file
    text = str(error)
    if isinstance(error, OSError) and (error.errno in _DISK or _DISK_TEXT.search(text)):
        return "the disk (or that of TMPDIR) is full, or a file may not grow; free space there"
    found = _WANTED.search(text)
    wanted = f" ({_readable(found[1])} more were wanted)" if found else ""
    if _LIMIT.search(text):
        return f"out of the GPU memory it may have{wanted}; ask for less at once, or allow more"
    machine = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    if not machine and not _MEMORY.search(text):
        return None
    if device == "cuda" and not machine:
        return f"out of GPU memory{wanted}; ask for less at once, or take another GPU (--device cuda:N)"
    return f"out of memory{wanted}; close other programs, or ask for less at once"


def _readable(amount: str) -> str:
    """`4294967296` and `4294967296 bytes` as `4,295 MB`; what has another unit stays."""
    digits = amount.removesuffix("bytes").strip()
    return f"{int(digits) / 1e6:,.1f} MB" if digits.isdigit() else amount
