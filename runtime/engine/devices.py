"""Names of devices, availability of devices, and choice of a device."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Literal

from ..bundle.schema import Device
from ..errors import BundleError, OptionError, ProviderError, quote
from .cgroups import cpu_limit
from .cuda_diagnosis import INSTALL
from .cuda_provider import PROVIDER as CUDA_PROVIDER
from .ort import import_onnxruntime

DeviceKind = Literal["auto"] | Device

PROVIDERS: dict[Device, str] = {"cpu": "CPUExecutionProvider", "cuda": CUDA_PROVIDER}
DEVICES: tuple[DeviceKind, ...] = ("auto", *PROVIDERS)
ALL_DEVICES = tuple(PROVIDERS)
DEVICE_NAMES = "auto, cpu, cuda or cuda:N"  # text for messages
_DEVICE_NAME = re.compile(r"(?P<kind>auto|cpu|cuda)|cuda:(?P<index>[0-9]{1,3})")
PRECISION_ADVICE: dict[Device, str] = {"cpu": "fp32, int8 or int4", "cuda": "bf16"}  # for messages
MAX_THREADS = 256  # threads per session; thousands would stall the machine
MAX_BYTES = (1 << 63) - 1  # onnxruntime's limit of memory is a 64-bit number


@dataclass(frozen=True)
class Placement:
    """Device and resources that sessions use."""

    device: Device
    threads: int  # number of threads for an operator on the CPU
    index: int = 0  # index of the GPU
    memory_limit: int | None = None  # bytes of GPU memory that sessions may use; None: no limit
    low_memory: bool = False  # whether to need less memory on the CPU, and more time

    @property
    def name(self) -> str:
        """The device's name, as `choose_placement` accepts it."""
        return f"{self.device}:{self.index}" if self.index else self.device


def available_threads() -> int:
    """Return the number of processors that this process may use, by its affinity and its control groups."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = cpu_limit()
    return affinity if limit is None else min(affinity, limit)


def available_devices() -> tuple[Device, ...]:
    """Return the devices that the installed onnxruntime was built for."""
    providers = import_onnxruntime().get_available_providers()
    return tuple(device for device, provider in PROVIDERS.items() if provider in providers)


def parse_device(text: str) -> tuple[DeviceKind, int]:
    """Return the kind and the index of a device. For `cuda:1` they are ("cuda", 1).

    Raises:
        OptionError: the name is unknown.
    """
    match = _DEVICE_NAME.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise OptionError(f"device is {text!r}, expected {DEVICE_NAMES}, as in cuda:1")
    (kind,) = (device for device in DEVICES if device == (match["kind"] or "cuda"))
    return kind, int(match["index"] or 0)


def choose_placement(
    device: str,
    threads: int | None,
    *,
    runs_on: Sequence[Device] = ALL_DEVICES,
    memory_limit: int | None = None,
    low_memory: bool = False,
) -> Placement:
    """Choose the device, and return the placement with the threads and memory that sessions may use.

    Args:
        device: `cpu`, `cuda` or, with several GPUs, `cuda:1`; `auto` chooses CUDA if onnxruntime supports
            it and the graphs are made for it; otherwise `auto` chooses the CPU.
        threads: number of threads for one operator on the CPU; None: one per processor that this process
            may use.
        runs_on: the devices that the graphs are made for.
        memory_limit: bytes of GPU memory for weights, sessions and caches together; None: no limit. The limit
            does not include the temporary memory of decode steps, which is small.
        low_memory: whether sessions on the CPU shall need less memory, and more time; see `Placement`.

    Raises:
        OptionError: an argument is out of range.
        BundleError: the graphs are not made for the requested device.
        ProviderError: onnxruntime does not support the requested device, or it supports none of the devices
            that the graphs are made for.
    """
    if threads is not None and not (_is_whole(threads) and 1 <= threads <= MAX_THREADS):
        raise OptionError(f"threads is {quote(threads)}, expected 1 to {MAX_THREADS}")
    if memory_limit is not None and not (_is_whole(memory_limit) and 0 < memory_limit <= MAX_BYTES):
        raise OptionError(
            f"memory_limit is {quote(memory_limit)}, expected a number of bytes over 0, up to {MAX_BYTES}"
        )
    if not isinstance(low_memory, bool):
        raise OptionError(f"low_memory is {quote(low_memory)}, expected True or False")
    (kind, index), available = parse_device(device), available_devices()
    if kind == "auto":
        by_priority: tuple[Device, ...] = ("cuda", "cpu")
        usable = [each for each in by_priority if each in available and each in runs_on]
        kind = usable[0] if usable else runs_on[0]
    if kind not in runs_on:
        raise BundleError(
            f"the bundle's precision runs on {' and '.join(runs_on)}, not on {kind}; "
            f"export again with --precision {PRECISION_ADVICE[kind]}"
        )
    if kind not in available:
        raise ProviderError(
            f"device {kind!r} is not available here, only: {', '.join(available)}; CUDA needs "
            f"`{INSTALL}` in an environment without onnxruntime"
        )
    threads = int(threads or available_threads())
    if kind == "cpu":
        if memory_limit is not None and device == "cpu":
            raise OptionError("memory_limit (--gpu-memory) limits GPU memory, and device is 'cpu'")
        return Placement("cpu", threads, low_memory=low_memory)
    return Placement("cuda", threads, index, None if memory_limit is None else int(memory_limit))


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
