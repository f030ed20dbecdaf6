"""Memory of a GPU that stays between runs, from where sessions take theirs.

The engine's own function for it (`OrtValue.ortvalue_from_shape_and_type`) takes it from an arena of the
process, which knows no limit, doubles when it grows and keeps what it has had: 5 GB of weights take 8.6 GB.
So a graph makes it, whose only output it is.
"""

from __future__ import annotations

import ctypes
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from .cuda_provider import device_lock
from .devices import Placement
from .ort import import_onnxruntime
from .session import open_plain

GRAPH = "zeros.onnx"  # ConstantOfShape: `words` int64[1] -> `memory` int64[words], all of them 0
INT64_BYTES = 8  # bytes of an int64
# The kernel counts in 32 bits, and beyond them writes where it must not.
MAX_ALLOCATION_BYTES = 8 << 30  # bytes at once
SHRINK_ARENA_OPTION = "memory.enable_memory_arena_shrinkage"  # onnxruntime's option of a run


def allocate(size: int, placement: Placement) -> Any:
    """So many bytes, of zeros, as an OrtValue of whole words; they go back when nobody has it any more.

    Raises what `open_plain` raises, and what the engine raises where there is not so much.
    """
    if size > MAX_ALLOCATION_BYTES:
        raise ValueError(f"{size} bytes are more than {MAX_ALLOCATION_BYTES} at once")
    ort, session = import_onnxruntime(), _session(placement)
    options = ort.RunOptions()
    options.add_run_config_entry(
        SHRINK_ARENA_OPTION, f"gpu:{placement.index}"
    )  # what was given back before goes first
    binding, wanted = session.io_binding(), np.array([-(-size // INT64_BYTES)], np.int64)
    with device_lock(placement.device):
        binding.bind_cpu_input("words", wanted)
        binding.bind_output("memory", placement.device, placement.index)
        session.run_with_iobinding(binding, options)
    (memory,) = binding.get_outputs()
    return memory


def shrink_arena(placement: Placement) -> None:
    """Have memory that nobody has any more leave the engine's hands."""
    if placement.device == "cuda":
        allocate(INT64_BYTES, placement)


@cache
def _session(placement: Placement) -> Any:
    return open_plain((files(__package__) / GRAPH).read_bytes(), placement)


def trim_heap() -> None:
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
