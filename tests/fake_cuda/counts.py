"""Read the counters of the fake CUDA runtime in this process; see `struct counts` in fake_cuda.h."""

from __future__ import annotations

import ctypes
from typing import Any

MAX_DEVICES = 8
_TOTALS = (
    *("launches", "graph_launches", "captures", "captured_launches", "mallocs", "frees", "synchronisations"),
    *("to_device", "to_device_bytes", "to_host", "to_host_bytes", "on_device", "on_device_bytes"),
)
_BY_DEVICE = ("live_bytes", "peak_bytes")


class _Counts(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in _TOTALS),
        *((name, ctypes.c_int64 * MAX_DEVICES) for name in _BY_DEVICE),
    ]


def counts() -> dict[str, Any]:
    """Return the counters by name; `live_bytes` and `peak_bytes` are lists with a number per device."""
    counters = _Counts.in_dll(ctypes.CDLL("libcudart.so.13"), "fake_cuda_counts")
    return {name: getattr(counters, name) for name in _TOTALS} | {
        name: list(getattr(counters, name)) for name in _BY_DEVICE
    }
