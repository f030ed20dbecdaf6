"""The machine: its processor, and the memory that a process may use."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from ..engine.cgroups import memory_limit
from ..engine.devices import available_threads

KIB = 1 << 10  # bytes; the unit of /proc/meminfo


@dataclass(frozen=True)
class Machine:
    """The machine that this process runs on."""

    system: str
    processor: str
    threads: int  # processors that this process may use
    memory_bytes: int | None  # memory of the machine or limit of the container, the lower; None: unknown
    free_bytes: int | None  # memory available without swapping; None: unknown


def this_machine() -> Machine:
    """Return the processor and the memory of this machine; an unknown value never raises an error."""
    memory, free = _memory(), _meminfo("MemAvailable")
    return Machine(
        system=f"{platform.system()} {platform.machine()}",
        processor=_processor(),
        threads=available_threads(),
        memory_bytes=memory,
        free_bytes=free if free is None or memory is None else min(free, memory),
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _memory() -> int | None:
    total = None
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min((size for size in (total, memory_limit()) if size is not None), default=None)


def _meminfo(name: str) -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:  # not Linux
        return None
    sizes = (line.split()[1] for line in lines if line.startswith(f"{name}:"))
    return next((int(size) * KIB for size in sizes if size.isdigit()), None)
