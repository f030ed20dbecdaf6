"""The GPU: what it is, and how much of its memory is taken, as its driver says.

CUDA is asked through the library that the engine itself has loaded, so this needs no torch.
"""

from __future__ import annotations

import csv
import ctypes
import os
import shutil
import subprocess
from typing import Any

from paligemma_onnx.runtime import ProviderError
from paligemma_onnx.runtime.engine import cuda_provider as cuda
from paligemma_onnx.runtime.engine.ort import import_onnxruntime

from ..memory import available_memory, process_memory
from .plan import index_of

# Of `nvidia-smi --query-gpu`; clocks in MHz, power in W, memory in MiB.
ASKED = (
    *("name", "driver_version", "pstate", "temperature.gpu", "power.limit", "memory.total", "memory.used"),
    *("clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem"),
)
PATIENCE = 20  # seconds


class Device:
    """The device as a process of its own finds it, whose context goes with it."""

    def __init__(self, device: str) -> None:
        self._memory, self._device = Memory(device), device

    def facts(self) -> dict[str, Any]:
        """Name, driver, clocks, memory."""
        ort = import_onnxruntime()
        found: dict[str, Any] = {"device": self._device, "onnxruntime": ort.__version__}
        if self._device == "cpu":
            return found | {"free_bytes": available_memory()}
        from paligemma_onnx.runtime.engine.nvidia_driver import query_driver  # noqa: PLC0415

        driver, index = query_driver(), index_of(self._device)
        gpu = driver.gpus[index]
        return found | {
            "onnxruntime_cuda": ort.cuda_version,
            "gpu": gpu.name,
            "compute": list(gpu.compute),
            "driver_cuda": driver.cuda,
            "memory_bytes": gpu.memory_bytes,
            "free_bytes": self._memory.free(),
            "nvidia_smi": nvidia_smi(index),
        }


class Memory:
    """Memory of a device that others cannot have, less what was taken at first.

    At first means behind the start of CUDA, which takes some hundred megabytes for its context. Of a CPU,
    memory that is this process's own.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        if device != "cpu":
            ort = import_onnxruntime()
            cuda.start(ort, index_of(device))
            self._library = ctypes.CDLL(f"libcudart.so.{ort.cuda_version.partition('.')[0]}")
        self.at_first = self._taken()

    def taken(self) -> int:
        """Bytes since then."""
        return self._taken() - self.at_first

    def free(self) -> int:
        """Bytes that a process can still have of a GPU."""
        return self._info()[0]

    def _taken(self) -> int:
        if self._device == "cpu":
            return process_memory(os.getpid(), proportional=False).anonymous
        free, every = self._info()
        return every - free

    def _info(self) -> tuple[int, int]:
        free, every = ctypes.c_size_t(), ctypes.c_size_t()
        error = self._library.cudaSetDevice(index_of(self._device))
        error = error or self._library.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(every))
        if error:
            raise ProviderError(f"cudaMemGetInfo says {error}")
        return free.value, every.value


def nvidia_smi(index: int) -> dict[str, str] | None:
    """What the driver's own tool says of a GPU; None where it is not there or says nothing."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", f"--id={index}", f"--query-gpu={','.join(ASKED)}", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    values = next(csv.reader(said.splitlines(), skipinitialspace=True), [])
    return dict(zip(ASKED, values, strict=False)) or None
