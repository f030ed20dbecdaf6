"""Allocate memory on a GPU from the arena that sessions use, and free unused memory of GPU and CPU.

onnxruntime's function for allocation (`OrtValue.ortvalue_from_shape_and_type`) uses a process-wide arena.
This arena has no limit, doubles when it grows and never shrinks: 5 GB of weights take 8.6 GB. So this module
runs a graph whose only output is the allocated memory.
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
# The kernel counts elements in 32 bits. With more elements it writes to a wrong address.
MAX_ALLOCATION_BYTES = 8 << 30
SHRINK_ARENA_OPTION = "memory.enable_memory_arena_shrinkage"  # onnxruntime run option


def allocate(size: int, placement: Placement) -> OrtValue:
    """Return new zeros on a device: int64[size / 8], rounded up. The last reference frees the memory.

    Args:
        size: bytes, at most MAX_ALLOCATION_BYTES.
        placement: device of the memory.

    Raises:
        ValueError: the size is too large.
        ProviderError: the device does not start.
        ResourceError: out of memory while the session opens. If the allocation itself fails, onnxruntime's
            exception is raised unchanged.
    """
    if size > MAX_ALLOCATION_BYTES:
        raise ValueError(f"{size} bytes are more than {MAX_ALLOCATION_BYTES} at once")
    session = _session(placement)
    options = import_onnxruntime().RunOptions()
    # Free unused memory of the arena before the allocation.
    options.add_run_config_entry(SHRINK_ARENA_OPTION, f"gpu:{placement.index}")
    binding, words = session.io_binding(), np.array([-(-size // INT64_BYTES)], np.int64)
    with device_lock(placement.device):
        binding.bind_cpu_input("words", words)
        binding.bind_output("memory", placement.device, placement.index)
        session.run_with_iobinding(binding, options)
    (memory,) = binding.get_outputs()
    return memory


def shrink_arena(placement: Placement) -> None:
    """Free unused memory of the GPU's arena. On the CPU this does nothing."""
    if placement.device == "cuda":
        allocate(INT64_BYTES, placement)


@cache
def _session(placement: Placement) -> InferenceSession:
    return open_serialized((files(__package__) / GRAPH).read_bytes(), placement)


def trim_heap() -> None:
    """Return freed heap memory to the system with glibc's `malloc_trim`; do nothing in other C libraries.

    The heap of glibc grows when matrices are allocated, and does not shrink when they are freed. Opening a
    session allocates matrices to reorder the weights. For a 3B model in 8 bits the heap keeps 0.5 GB of freed
    memory after the sessions were opened, and another 0.5 GB after the vision session was closed.
    """
    try:
        malloc_trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # not glibc; on Windows `CDLL(None)` fails
        return
    malloc_trim(0)
