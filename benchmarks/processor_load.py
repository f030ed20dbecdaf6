"""Measure how much of the machine's processors other programs use during a measurement."""

from __future__ import annotations

import time

import psutil


class LoadMeter:
    """Counts the processor time of the machine and of one process from the construction on."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._start = self._now()

    def other_processors(self) -> float:
        """Return how many processors the other processes used on average; 1.0 is one busy processor.

        Time that a hypervisor gave to other virtual machines counts, too.
        """
        seconds, busy, own = (now - start for now, start in zip(self._now(), self._start, strict=True))
        return max(0.0, (busy - own) / seconds)

    def _now(self) -> tuple[float, float, float]:
        """Return the time, the busy time of all processors, and the time of the process, in seconds."""
        machine, process = psutil.cpu_times(), self._process.cpu_times()
        # The kernel counts the time of guests in `user`, too.
        busy = machine.user + machine.nice + machine.system + machine.irq + machine.softirq + machine.steal
        return time.perf_counter(), busy, process.user + process.system
