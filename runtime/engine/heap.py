"""Memory that was freed, given back to the system."""

from __future__ import annotations

import ctypes


def trim() -> None:
    """Return what the C library keeps of freed memory, where it is one that keeps it (glibc).

    Its heap grows by matrices and, once they are freed, stays as large as it was. Of a 3B model in 8 bits
    that is half a gigabyte when sessions are open, since each read weights to put them into another order,
    and again as much when the vision session is closed.
    """
    try:
        release = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library; Windows has no handle of that kind
        return
    release(0)
