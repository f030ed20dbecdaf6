"""Memory of a device that torch has taken, as the driver says."""

from __future__ import annotations

import torch


class TorchMemory:
    """As `Memory` of device.py, by torch."""

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        torch.zeros(1, device=self._device)  # CUDA starts
        self._at_first = self._taken()

    def taken(self) -> int:
        """Bytes since then; of a CPU none are counted."""
        return self._taken() - self._at_first

    def _taken(self) -> int:
        if self._device.type == "cpu":
            return 0
        free, every = torch.cuda.mem_get_info(self._device)
        return every - free
