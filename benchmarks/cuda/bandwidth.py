"""How fast the device reads its memory: what no decode step can beat."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..hardware_limits import fastest

TOGETHER = 4  # passes between two looks at the clock, so that starting and waiting do not count
SHARE = 0.4  # of the memory that is free, for each of two buffers


class Bandwidth:
    """Two ways to read a large buffer; used in a process of its own."""

    def __init__(self, device: str, size: int) -> None:
        """Take a buffer of so many bytes, or as much as there is room for."""
        self._device = torch.device(device)
        if self._device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self._device)
            size = min(size, int(free * SHARE))
        self._values = torch.ones(size // 4, device=self._device)

    def measure(self) -> dict[str, float]:
        """Bytes a second: of a sum, which only reads, and of a copy, each of whose bytes counts twice."""
        values = self._values
        sink = torch.empty_like(values)
        size = values.nbytes
        return {
            "bytes": size,
            "sum_bytes_per_s": size / self._seconds(values.sum),
            "copy_bytes_per_s": 2 * size / self._seconds(lambda: sink.copy_(values)),
        }

    def _seconds(self, work: Callable[[], object]) -> float:
        def several() -> None:
            for _ in range(TOGETHER):
                work()
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)

        return fastest(several) / TOGETHER
