"""Devices: names, availability and the choice of one."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..errors import BundleError, OptionError, ProviderError
from . import cuda_provider as cuda
from .ort import import_onnxruntime

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": cuda.PROVIDER}


DEVICES = ("auto", *PROVIDERS)


ALL_DEVICES = tuple(PROVIDERS)


DEVICE_NAMES = "auto, cpu, cuda or cuda:N"  # of devices, for people


_DEVICE = re.compile(r"(?P<kind>auto|cpu|cuda)|cuda:(?P<index>[0-9]{1,3})")


# By which `export` makes graphs for a device.
PRECISIONS = {"cpu": "fp32, int8 or int4", "cuda": "bf16"}


MAX_THREADS = 256  # each session starts as many; thousands would stall the machine


@dataclass(frozen=True)
class Placement:
    """Where sessions run."""

    device: Literal["cpu", "cuda"]
    threads: int  # for one operator on the CPU
    index: int = 0  # which GPU
    memory_limit: int | None = None  # bytes of the GPU's memory that sessions may take; None: all there are

    @property
    def name(self) -> str:
        """As `choose_placement` takes it."""
        return f"{self.device}:{self.index}" if self.index else self.device


def available_threads() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_devices() -> tuple[str, ...]:
    """Devices whose provider the installed engine was built with."""
    providers = import_onnxruntime().get_available_providers()
    return tuple(device for device, provider in PROVIDERS.items() if provider in providers)


def parse_device(text: str) -> tuple[str, int]:
    """A device's kind and which of that kind: `cuda:1` is ("cuda", 1).

    Raises:
        OptionError: there is no such name.
    """
    found = _DEVICE.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise OptionError(f"device is {text!r}, expected {DEVICE_NAMES}, as in cuda:1")
    return found["kind"] or "cuda", int(found["index"] or 0)


def choose_placement(
    device: str,
    threads: int | None,
    *,
    runs_on: Sequence[str] = ALL_DEVICES,
    memory_limit: int | None = None,
) -> Placement:
    """Decide where to run.

    Args:
        device: `cpu`, `cuda` or, where there are several, `cuda:1`; `auto` takes CUDA where the engine has it
            and the graphs are made for it, else the CPU.
        threads: for one operator on the CPU; None takes every processor this process may use.
        runs_on: the devices that the graphs are made for.
        memory_limit: bytes of the GPU's memory that weights, sessions and caches together may take; what
            steps compute with, which is little, comes beside it. None: all there are.

    Raises:
        OptionError: an argument is out of range.
        BundleError: the graphs are not made for the device asked for.
        ProviderError: the engine has not the device asked for, or none that the graphs are made for.
    """
    if threads is not None and not (isinstance(threads, int) and 1 <= threads <= MAX_THREADS):
        raise OptionError(f"threads is {threads!r}, expected 1 to {MAX_THREADS}")
    if memory_limit is not None and not (isinstance(memory_limit, int) and memory_limit > 0):
        raise OptionError(f"memory_limit is {memory_limit!r}, expected a number of bytes over 0")
    (kind, index), present = parse_device(device), available_devices()
    if kind == "auto":
        usable = [one for one in ("cuda", "cpu") if one in present and one in runs_on]
        kind = usable[0] if usable else runs_on[0]
    if kind not in runs_on:
        raise BundleError(
            f"the bundle's precision runs on {' and '.join(runs_on)}, not on {kind}; "
            f"export again with --precision {PRECISIONS[kind]}"
        )
    if kind not in present:
        raise ProviderError(
            f"device {kind!r} is not available here, only: {', '.join(present)}; CUDA needs "
            f"`{cuda.INSTALL}` in an environment without onnxruntime"
        )
    threads = threads or available_threads()
    if kind == "cpu":
        if memory_limit is not None and device == "cpu":
            raise OptionError("memory_limit (--gpu-memory) is of a GPU, and device is 'cpu'")
        return Placement("cpu", threads)
    return Placement("cuda", threads, index, memory_limit)
