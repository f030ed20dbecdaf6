"""Read the properties and the memory use of an NVIDIA GPU without torch."""

from __future__ import annotations

import csv
import ctypes
import subprocess
from typing import Any

from paligemma_onnx.runtime import ProviderError
from paligemma_onnx.runtime.engine import cuda_provider
from paligemma_onnx.runtime.engine.devices import parse_device
from paligemma_onnx.runtime.engine.nvidia_driver import query_driver
from paligemma_onnx.runtime.engine.ort import import_onnxruntime

# Fields of `nvidia-smi --query-gpu`; clocks in MHz, power in W, memory in MiB.
SMI_FIELDS = (
    *("name", "driver_version", "pstate", "temperature.gpu", "power.limit", "memory.total", "memory.used"),
    *("clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem"),
)
SMI_TIMEOUT_S = 20


class Device:
    """A GPU and its memory use, measured relative to the moment of construction.

    The constructor starts CUDA first, so the CUDA context of some hundred megabytes does not count. Memory
    use is that of all processes, read with cudaMemGetInfo from the CUDA library that onnxruntime has loaded.
    """

    def __init__(self, device: str) -> None:
        """Start CUDA on a device: `cuda` or `cuda:N`."""
        ort, (_, self._index) = import_onnxruntime(), parse_device(device)
        cuda_provider.start(ort, self._index)
        self._name, self._ort = device, ort
        self.library = ctypes.CDLL(f"libcudart.so.{ort.cuda_version.partition('.')[0]}")
        self._used_at_start = self._used()

    def taken(self) -> int:
        """Return the bytes that were allocated since construction."""
        return self._used() - self._used_at_start

    def free(self) -> int:
        """Return the bytes that can still be allocated."""
        return self._memory()[0]

    def facts(self) -> dict[str, Any]:
        """Return the GPU's name, versions of software, clocks, and memory in bytes."""
        driver = query_driver()
        gpu = driver.gpus[self._index]
        return self.smi() | {
            "device": self._name,
            "onnxruntime": self._ort.__version__,
            "onnxruntime_cuda": self._ort.cuda_version,
            "gpu": gpu.name,
            "compute": list(gpu.compute),
            "driver_cuda": driver.cuda,
            "memory_bytes": gpu.memory_bytes,
            "free_bytes": self.free(),
        }

    def _used(self) -> int:
        free, total = self._memory()
        return total - free

    def _memory(self) -> tuple[int, int]:
        """Return free and total bytes."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        error = self.library.cudaSetDevice(self._index)
        error = error or self.library.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total))
        if error:
            raise ProviderError(f"cudaMemGetInfo returned error {error}")
        return free.value, total.value

    def smi(self) -> dict[str, Any]:
        """Return {"nvidia_smi": fields}; the fields are None if nvidia-smi is not installed or fails."""
        query = f"--query-gpu={','.join(SMI_FIELDS)}"
        command = ["nvidia-smi", f"--id={self._index}", query, "--format=csv,noheader"]
        try:
            out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=SMI_TIMEOUT_S)
        except (OSError, subprocess.SubprocessError):
            return {"nvidia_smi": None}
        values = next(csv.reader(out.stdout.splitlines(), skipinitialspace=True), [])
        return {"nvidia_smi": dict(zip(SMI_FIELDS, values, strict=False))}
