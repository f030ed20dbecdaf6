"""Memory of a process and of the machine, from Linux's /proc (proc(5))."""

from __future__ import annotations

import threading
from dataclasses import dataclass, fields
from pathlib import Path

KIB = 1 << 10  # bytes; the unit of /proc
EVERY = 0.02  # seconds between two looks
SLOW = 25  # looks between two at the proportional share: the system walks through every page for it


@dataclass(frozen=True)
class Memory:
    """Bytes of a process. Of a peak, each the most that it was at any time."""

    anonymous: int = 0  # RssAnon, what nobody else has and no file holds
    file: int = 0  # RssFile, mapped files; a page that is mapped twice counts twice
    resident: int = 0  # VmHWM, the system's own peak of both
    proportional: int = 0  # Pss, which counts a page once however often it is mapped

    def most(self, other: Memory) -> Memory:
        """The larger of each."""
        return Memory(*(max(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)))


def process_memory(pid: int, *, proportional: bool) -> Memory:
    """What a process has now; nothing of one that has ended."""
    try:
        status = _entries(Path(f"/proc/{pid}/status"))
        rollup = _entries(Path(f"/proc/{pid}/smaps_rollup")) if proportional else {}
    except OSError:
        return Memory()
    found = (status.get("RssAnon"), status.get("RssFile"), status.get("VmHWM"), rollup.get("Pss"))
    return Memory(*(value or 0 for value in found))


def available_memory() -> int:
    """Bytes the system can give without swapping."""
    return _entries(Path("/proc/meminfo"))["MemAvailable"]


def total_memory() -> int:
    """Bytes of the machine."""
    return _entries(Path("/proc/meminfo"))["MemTotal"]


def _entries(file: Path) -> dict[str, int]:
    """Lines such as `VmHWM:   1234 kB`, in bytes."""
    lines = (line.split() for line in file.read_text(encoding="ascii", errors="replace").splitlines())
    return {
        words[0].rstrip(":"): int(words[1]) * KIB
        for words in lines
        if len(words) == 3 and words[2] == "kB" and words[1].isdigit()
    }


class PeakWatch:
    """Watches a process from outside."""

    def __init__(self, pid: int) -> None:
        self._pid, self._ended, self._peak = pid, threading.Event(), Memory()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Look again and again from now on."""
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def look(self, *, proportional: bool = True) -> Memory:
        """Look now; gives the peaks so far."""
        self._peak = self._peak.most(process_memory(self._pid, proportional=proportional))
        return self._peak

    def stop(self) -> Memory:
        """Look no more; gives the peaks."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        return self._peak

    def _watch(self) -> None:
        looks = 0
        while not self._ended.wait(EVERY):
            self.look(proportional=looks % SLOW == 0)
            looks += 1
