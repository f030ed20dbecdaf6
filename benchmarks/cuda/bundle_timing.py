"""Timing of a bundle on a GPU. The process imports torch only for profiling, after all timings."""

from __future__ import annotations

from typing import Any

from ..bundle import Bundle
from ..metrics import device_memory
from .device import Device
from .transfers import profile_steps


class CudaBundle(Bundle):
    """A loaded bundle; its figures include the GPU memory that the bundle allocated."""

    timed_steps = 20

    def __init__(self, folder: str, tokens: int, device: str) -> None:
        self._device = Device(device)
        super().__init__(folder, tokens, device=device)
        self.metrics[device_memory(None)] = self._device.taken()

    def warm_up(self, batches: list[int]) -> None:
        """Answer one request for each number of images in `batches`.

        The requests allocate the memory and capture the CUDA graphs of later requests.
        """
        for images in batches:
            super().warm_up([images])
            self.metrics[device_memory(images)] = self._device.taken()

    def profile(self) -> dict[str, Any]:
        """Return the kernels and copies of a decode step of one sequence, and the clocks of the busy GPU."""
        return self._device.smi() | profile_steps(self.model, rows=1, count=self.timed_steps)
