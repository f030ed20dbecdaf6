"""Memory of a process and of the machine, read with psutil."""

from __future__ import annotations

import threading
from dataclasses import dataclass, fields

import psutil

SAMPLE_S = 0.02  # seconds between two samples
# Samples between two readings of the proportional share, for which the kernel walks through every page.
PROPORTIONAL_EVERY = 25


@dataclass(frozen=True)
class Memory:
    """Memory of a process in bytes; in a peak, each field is the largest value sampled."""

    anonymous: int = 0  # private pages that no file backs
    file: int = 0  # mapped files; a page that is mapped twice counts twice
    resident: int = 0  # both together (RSS)
    proportional: int = 0  # PSS: a page that several mappings share is divided among them

    def maximum(self, other: Memory) -> Memory:
        """Return the larger value of each field."""
        return Memory(*(max(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)))


def process_memory(pid: int, *, proportional: bool) -> Memory:
    """Return a process's memory now; zeros if it has ended."""
    try:
        process = psutil.Process(pid)
        info = process.memory_full_info() if proportional else process.memory_info()
    except psutil.Error:
        return Memory()
    return Memory(info.rss - info.shared, info.shared, info.rss, info.pss if proportional else 0)


def available_memory() -> int:
    """Return the bytes that the system can provide without swapping."""
    return int(psutil.virtual_memory().available)


def total_memory() -> int:
    """Return the machine's memory in bytes."""
    return int(psutil.virtual_memory().total)


class PeakSampler:
    """Sample a process's memory from another process and keep the peak."""

    def __init__(self, pid: int) -> None:
        self._pid, self._ended, self._peak = pid, threading.Event(), Memory()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Sample in a thread from now on."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def sample(self, *, proportional: bool = True) -> Memory:
        """Sample now and return the peak so far."""
        self._peak = self._peak.maximum(process_memory(self._pid, proportional=proportional))
        return self._peak

    def stop(self) -> Memory:
        """Stop sampling and return the peak."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        return self._peak

    def _run(self) -> None:
        count = 0
        while not self._ended.wait(SAMPLE_S):
            self.sample(proportional=count % PROPORTIONAL_EVERY == 0)
            count += 1
