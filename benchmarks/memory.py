"""Measure the memory of a process and of the machine with psutil."""

from __future__ import annotations

import threading
from dataclasses import dataclass, fields

import psutil

SAMPLE_S = 0.02  # seconds between two samples
# PSS is measured in one of this many samples, because the kernel visits every page to compute it.
PROPORTIONAL_EVERY = 25


@dataclass(frozen=True)
class Memory:
    """Memory of a process in bytes. In a peak, each field is the largest value of all samples."""

    anonymous: int = 0  # private pages that no file backs
    file: int = 0  # pages of mapped files; a page that is mapped twice counts twice
    resident: int = 0  # RSS: the sum of `anonymous` and `file`
    proportional: int = 0  # PSS: like RSS, but each process that maps a page counts an equal share of it

    def maximum(self, other: Memory) -> Memory:
        """Return a Memory whose fields are the larger values of both objects."""
        return Memory(*(max(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)))


def process_memory(pid: int, *, proportional: bool) -> Memory:
    """Return the memory of a process now, or zeros if the process has ended; PSS only if `proportional`."""
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
    """Measure the memory of another process repeatedly, and keep the peak."""

    def __init__(self, pid: int) -> None:
        self._pid, self._ended, self._peak = pid, threading.Event(), Memory()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start a thread that measures until `stop` is called."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def sample(self, *, proportional: bool = True) -> Memory:
        """Measure now, and return the peak so far."""
        self._peak = self._peak.maximum(process_memory(self._pid, proportional=proportional))
        return self._peak

    def stop(self) -> Memory:
        """Stop the thread, and return the peak."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        return self._peak

    def _run(self) -> None:
        count = 0
        while not self._ended.wait(SAMPLE_S):
            self.sample(proportional=count % PROPORTIONAL_EVERY == 0)
            count += 1
