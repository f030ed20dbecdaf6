"""Results of the systems that are measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from dacite import from_dict

from .exports import Export
from .memory import Memory
from .metrics import Metrics


@dataclass(frozen=True)
class Prepared:
    """Cost and effect of `paligemma-onnx prepare` on a bundle."""

    seconds: float
    bytes: int
    start_s: float  # from starting the process until it has loaded
    peak: Memory  # of a process that loaded and answered one request


@dataclass
class Result:
    """One system's figures; filled while it is measured."""

    name: str
    export: Export | None = None
    starts: list[float] = field(default_factory=list)  # seconds from starting a process until it has loaded
    peak: Memory | None = None  # of a process that loaded and answered one request
    prepared: Prepared | None = None
    rounds: list[Metrics] = field(default_factory=list)
    decoder_bytes: int | None = None  # weights that a decode step reads
    kernels: dict[str, Any] | None = None  # of a decode step on a GPU; see cuda/transfers.py
    tool: str | None = None  # name and version, if it is not this project's
    failure: str | None = None  # why it was not measured to the end

    def median(self, name: str) -> float | None:
        """Return the median of a figure over the rounds; None if it was not measured."""
        values = self._values(name)
        return median(values) if values else None

    def maximum(self, name: str) -> float | None:
        """Return the largest value of a figure over the rounds; None if it was not measured."""
        return max(self._values(name), default=None)

    def as_json(self) -> dict[str, object]:
        """Return all fields, and the medians by name."""
        names = dict.fromkeys(name for metrics in self.rounds for name in metrics)
        return asdict(self) | {"medians": {name: self.median(name) for name in names}}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Result:
        """Return the result that `as_json` described, also that of an earlier version with fewer fields."""
        return from_dict(cls, fields)

    def _values(self, name: str) -> list[float]:
        return [metrics[name] for metrics in self.rounds if name in metrics]
