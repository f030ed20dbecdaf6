"""The NVIDIA GPUs of this machine, as their driver tells of them; nothing of CUDA's toolkit is needed.

The calls are of the driver's own interface, which is stable: https://docs.nvidia.com/cuda/cuda-driver-api.
"""

from __future__ import annotations

import ctypes
import platform
from dataclasses import dataclass
from typing import Any

LIBRARY = "nvcuda.dll" if platform.system() == "Windows" else "libcuda.so.1"
NAME_LENGTH = 256  # bytes; longer names are cut
# CUdevice_attribute: the compute capability's two numbers.
MAJOR, MINOR = 75, 76


@dataclass(frozen=True)
class Gpu:
    """One GPU that this process may use."""

    name: str
    memory_bytes: int
    compute: tuple[int, int]  # its compute capability, major and minor


@dataclass(frozen=True)
class Driver:
    """What the driver says."""

    cuda: tuple[int, int] | None  # the newest CUDA that it runs, major and minor; None: there is no driver
    gpus: tuple[Gpu, ...]  # in the order of their indices
    error: str | None  # CUDA's name for why there are none


def this_driver() -> Driver:
    """Ask the driver; never raises."""
    try:
        library: Any = ctypes.CDLL(LIBRARY)
    except OSError:
        return Driver(None, (), None)
    version = ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(version))
    cuda = (version.value // 1000, version.value % 1000 // 10)
    if error := library.cuInit(0):
        return Driver(cuda, (), _name(library, error))
    count = ctypes.c_int()
    if error := library.cuDeviceGetCount(ctypes.byref(count)):
        return Driver(cuda, (), _name(library, error))
    return Driver(cuda, tuple(_gpu(library, index) for index in range(count.value)), None)


def _gpu(library: Any, index: int) -> Gpu:
    device, name, memory = ctypes.c_int(), ctypes.create_string_buffer(NAME_LENGTH), ctypes.c_size_t()
    library.cuDeviceGet(ctypes.byref(device), index)
    library.cuDeviceGetName(name, NAME_LENGTH, device)
    library.cuDeviceTotalMem_v2(ctypes.byref(memory), device)

    def attribute(number: int) -> int:
        value = ctypes.c_int()
        library.cuDeviceGetAttribute(ctypes.byref(value), number, device)
        return value.value

    return Gpu(name.value.decode(errors="replace"), memory.value, (attribute(MAJOR), attribute(MINOR)))


def _name(library: Any, error: int) -> str:
    name = ctypes.c_char_p()
    library.cuGetErrorName(error, ctypes.byref(name))
    return (name.value or b"").decode(errors="replace") or f"error {error}"
