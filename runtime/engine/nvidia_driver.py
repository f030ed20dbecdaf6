"""Query the NVIDIA driver for its GPUs; the CUDA toolkit is not needed.

The functions belong to the driver's interface, which is stable: https://docs.nvidia.com/cuda/cuda-driver-api.
The package nvidia-ml-py is not used: it ignores CUDA_VISIBLE_DEVICES, so its GPU indices differ from CUDA's.
"""

from __future__ import annotations

import ctypes
import platform
from dataclasses import dataclass

LIBRARY = "nvcuda.dll" if platform.system() == "Windows" else "libcuda.so.1"
MAX_NAME_BYTES = 256  # the driver cuts longer names
COMPUTE_MAJOR, COMPUTE_MINOR = 75, 76  # CUdevice_attribute numbers of the compute capability


@dataclass(frozen=True)
class Gpu:
    """A GPU that this process may use."""

    name: str
    memory_bytes: int
    compute: tuple[int, int]  # compute capability, major and minor


@dataclass(frozen=True)
class Driver:
    """Version and GPUs that the driver reports."""

    cuda: tuple[int, int] | None  # newest supported CUDA version (major, minor); None: no driver
    gpus: tuple[Gpu, ...]  # ordered by index
    error: str | None  # name of the CUDA error if the GPUs could not be queried


def query_driver() -> Driver:
    """Return the driver's version and GPUs. This function never raises an exception."""
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError:
        return Driver(None, (), None)
    version = ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(version))
    cuda = (version.value // 1000, version.value % 1000 // 10)
    if error := library.cuInit(0):
        return Driver(cuda, (), _error_name(library, error))
    count = ctypes.c_int()
    if error := library.cuDeviceGetCount(ctypes.byref(count)):
        return Driver(cuda, (), _error_name(library, error))
    return Driver(cuda, tuple(_query_gpu(library, index) for index in range(count.value)), None)


def _query_gpu(library: ctypes.CDLL, index: int) -> Gpu:
    device, name, memory = ctypes.c_int(), ctypes.create_string_buffer(MAX_NAME_BYTES), ctypes.c_size_t()
    library.cuDeviceGet(ctypes.byref(device), index)
    library.cuDeviceGetName(name, MAX_NAME_BYTES, device)
    library.cuDeviceTotalMem_v2(ctypes.byref(memory), device)

    def attribute(number: int) -> int:
        value = ctypes.c_int()
        library.cuDeviceGetAttribute(ctypes.byref(value), number, device)
        return value.value

    compute = attribute(COMPUTE_MAJOR), attribute(COMPUTE_MINOR)
    return Gpu(name.value.decode(errors="replace"), memory.value, compute)


def _error_name(library: ctypes.CDLL, error: int) -> str:
    name = ctypes.c_char_p()
    library.cuGetErrorName(error, ctypes.byref(name))
    return (name.value or b"").decode(errors="replace") or f"error {error}"
