"""A bundle on a GPU, timed; the process imports torch only to profile, after everything is timed."""

from __future__ import annotations

from typing import Any

from ..bundle import Bundle
from ..metrics import device_memory
from .device import Device
from .transfers import profile_steps


class CudaBundle(Bundle):
    """A loaded bundle, and the GPU memory that it takes."""

    timed_steps = 20

    def __init__(self, folder: str, tokens: int, device: str) -> None:
        self._device = Device(device)
        super().__init__(folder, tokens, device=device)
        self.metrics[device_memory(None)] = self._device.taken()

    def warm_up(self, batches: list[int]) -> None:
        """Answer a request of each number of images, which allocates memory and captures CUDA graphs."""
        for images in batches:
            super().warm_up([images])
            self.metrics[device_memory(images)] = self._device.taken()

    def profile(self) -> dict[str, Any]:
        """Return kernels and copies of a decode step of one sequence, and clocks while the GPU is warm."""
        return self._device.smi() | profile_steps(self.model, rows=1, count=self.timed_steps)
