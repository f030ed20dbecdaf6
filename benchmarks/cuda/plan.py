"""What is held against the GPU, and how often."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from paligemma_onnx.runtime.engine.devices import parse_device

from ..sizes import Subject

EXACT = "fp32"  # the precision that is the reference, on the CPU
ON_GPU = ("bf16", "fp16", "int4-bf16")


@dataclass(frozen=True)
class Plan:
    """One run."""

    subject: Subject  # of full size, with random weights
    device: str  # cpu, cuda or cuda:N
    compared: tuple[str, ...]  # precisions of the shipped model whose tokens are compared
    timed: tuple[str, ...]  # precisions of the subject that are timed; the first beside torch
    batches: tuple[int, ...]  # pictures of a request; 1 is the first
    rounds: int
    requests: int  # of each number of pictures in a round; their median counts
    tokens: int  # of each answer that is timed
    scenes: int  # drawn, and asked about in each precision
    short_requests: int  # behind each other, while memory is looked at
    budget_s: float

    @property
    def kind(self) -> Literal["cpu", "cuda"]:
        """Of the device."""
        return "cpu" if self.device == "cpu" else "cuda"

    @property
    def growing(self) -> str:
        """The precision whose memory and copies are looked at."""
        return self.timed[0]


def index_of(device: str) -> int:
    """Which GPU a device is."""
    return parse_device(device)[1]
