"""Allocate GPU memory from the arena that sessions use; return memory of the CPU's heap to the system.

onnxruntime's function for it (`OrtValue.ortvalue_from_shape_and_type`) uses an arena of the process that has
no limit, doubles when it grows and never shrinks: 5 GB of weights take 8.6 GB. So a graph allocates the
memory: it is the graph's only output.
"""

from __future__ import annotations

import ctypes
from functools import cache
from importlib.resources import files

import numpy as np

from ..bundle.dtypes import DTYPES
from .cuda_provider import device_lock
from .devices import Placement
from .ort import InferenceSession, OrtValue, import_onnxruntime
from .session import open_serialized

GRAPH = "zeros.onnx"  # ConstantOfShape: `words` int64[1] -> `memory` int64[words] of zeros
INT64_BYTES = DTYPES["int64"].bytes
# The kernel counts elements in 32 bits, and writes to a wrong address if there are more.
MAX_ALLOCATION_BYTES = 8 << 30
SHRINK_ARENA_OPTION = "memory.enable_memory_arena_shrinkage"  # onnxruntime's option of a run


def allocate(size: int, placement: Placement) -> OrtValue:
    """Allocate zeros: int64[size / 8], rounded up. The memory is freed with the last reference.

    Args:
        size: bytes, at most MAX_ALLOCATION_BYTES.
        placement: where.

    Raises:
        ValueError: the size is too large.
        ProviderError: the device does not start.
        ResourceError: the session does not open because memory is used up; onnxruntime's exception if the
            allocation fails.
    """
    if size > MAX_ALLOCATION_BYTES:
        raise ValueError(f"{size} bytes are more than {MAX_ALLOCATION_BYTES} at once")
    session = _session(placement)
    options = import_onnxruntime().RunOptions()
    # Free unused memory of the arena first.
    options.add_run_config_entry(SHRINK_ARENA_OPTION, f"gpu:{placement.index}")
    binding, words = session.io_binding(), np.array([-(-size // INT64_BYTES)], np.int64)
    with device_lock(placement.device):
        binding.bind_cpu_input("words", words)
        binding.bind_output("memory", placement.device, placement.index)
        session.run_with_iobinding(binding, options)
    (memory,) = binding.get_outputs()
    return memory


def shrink_arena(placement: Placement) -> None:
    """Free unused memory of the GPU's arena; nothing happens on the CPU."""
    if placement.device == "cuda":
        allocate(INT64_BYTES, placement)


@cache
def _session(placement: Placement) -> InferenceSession:
    return open_serialized((files(__package__) / GRAPH).read_bytes(), placement)


def trim_heap() -> None:
    """Return freed memory of the heap to the system (glibc's `malloc_trim`; nothing with other C libraries).

    The heap of glibc grows by matrices and does not shrink when they are freed. For a 3B model in 8 bits it
    keeps 0.5 GB after sessions were opened, since each one reads weights to reorder them, and as much again
    after the vision session was closed.
    """
    try:
        malloc_trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library; Windows has no such handle
        return
    malloc_trim(0)
