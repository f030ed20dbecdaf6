"""Release the pages of mapped files: they leave this process's memory and stay in the system's file cache.

A session maps weight files. Pages that it has read count as memory of the process until the system needs them
for something else. A released page is mapped again, from the file cache, when it is next read.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable, Iterator, Set
from contextlib import suppress
from pathlib import Path

MADV_DONTNEED = 4  # Linux, include/uapi/asm-generic/mman-common.h
_MAPS = Path("/proc/self/maps")


def release_pages(files: Iterable[Path]) -> None:
    """Release the pages of mapped files. Other threads may read them meanwhile. Linux only.

    Args:
        files: files that this process maps, and never writes through the mapping: a changed page would be
            lost.
    """
    names = {os.fsencode(file.resolve()) for file in files}
    with suppress(AttributeError, OSError, TypeError):  # not Linux
        madvise = ctypes.CDLL(None).madvise
        madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        for start, end in _mappings(names):
            madvise(start, end - start, MADV_DONTNEED)


def _mappings(names: Set[bytes]) -> Iterator[tuple[int, int]]:
    """Yield the first address, and the address after the last, of each mapping of a file (proc(5))."""
    for line in _MAPS.read_bytes().splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5] in names:
            start, _, end = fields[0].partition(b"-")
            yield int(start, 16), int(end, 16)
