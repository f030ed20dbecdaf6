"""Whether memory stays level over many requests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from paligemma_onnx.runtime import PaliGemma

from ..memory import process_memory
from .device import Memory
from .prompts import golden

POINTS = 10  # looks at memory, the first behind a tenth of the requests
TOKENS = 4  # of an answer


class Growth:
    """A bundle that is asked again and again; used in a process of its own."""

    def __init__(self, folder: str, device: str) -> None:
        self._memory = Memory(device)
        self._model = PaliGemma.load(Path(folder), device=device)

    def over(self, requests: int) -> dict[str, Any]:
        """Memory along so many requests, the golden questions by turns."""
        asked, taken, resident = golden(), list[int](), list[int]()
        pictures = [self._model.open(one.picture) for one in asked]
        for number in range(requests):
            turn = number % len(asked)
            self._model.generate(pictures[turn], asked[turn].prompt, max_new_tokens=TOKENS)
            if (number + 1) * POINTS // requests != number * POINTS // requests:
                taken.append(self._memory.taken())
                resident.append(process_memory(os.getpid(), proportional=False).anonymous)
        return {
            "requests": requests,
            "device_bytes": taken,
            "first_bytes": taken[0],
            "last_bytes": taken[-1],
            "host_bytes": resident,
        }
