"""Describe the machine that runs a benchmark."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from paligemma_onnx.runtime.engine.devices import available_threads

from .memory import total_memory

# Instruction sets that affect the speed of matrix products, named as in /proc/cpuinfo on x86 and Arm.
FLAGS = (
    *("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16", "asimddp", "i8mm", "bf16", "sve"),
)
PACKAGES = (
    *("paligemma-onnx", "onnxruntime", "onnxruntime-gpu", "openvino"),
    *("torch", "transformers", "numpy", "onnx"),
)


def describe() -> dict[str, object]:
    """Return the processor, the memory in bytes, the operating system and the versions of packages."""
    cpu = _cpu()
    present = set((cpu.get("flags") or cpu.get("Features") or "").split())
    return {
        "cpu": cpu.get("model name", platform.processor() or platform.machine()),
        "cores": available_threads(),
        "cores_of_machine": os.cpu_count(),
        "flags": [flag for flag in FLAGS if flag in present],
        "memory_bytes": total_memory(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _cpu() -> dict[str, str]:
    """Return the fields of the first processor in /proc/cpuinfo."""
    first = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
