"""Results of the measured systems."""

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

    seconds: float  # duration of `prepare`
    bytes: int  # size of the files that `prepare` wrote
    start_s: float  # seconds from the start of a process until the prepared bundle is loaded
    peak: Memory  # peak memory of a process that loaded the prepared bundle and answered one request


@dataclass
class Result:
    """Figures of one system. The benchmark fills the fields while it measures the system."""

    name: str
    export: Export | None = None
    starts: list[float] = field(default_factory=list)  # seconds from each start until the system is loaded
    peak: Memory | None = None  # peak memory of a process that loaded the system and answered one request
    prepared: Prepared | None = None
    rounds: list[Metrics] = field(default_factory=list)  # figures of each round
    other_processors: list[float] = field(default_factory=list)  # see processor_load.py; one per round
    decoder_bytes: int | None = None  # bytes of weights that a decode step reads
    kernels: dict[str, Any] | None = None  # kernels of a decode step on a GPU; see cuda/transfers.py
    tool: str | None = None  # name and version of another tool; None for this project's bundles
    failure: str | None = None  # reason why the measurement ended early; None: it is complete

    def median(self, name: str) -> float | None:
        """Return the median of a figure over the rounds, or None if the figure was not measured."""
        values = self._values(name)
        return median(values) if values else None

    def maximum(self, name: str) -> float | None:
        """Return the largest value of a figure over the rounds, or None if the figure was not measured."""
        return max(self._values(name), default=None)

    def median_load(self) -> float | None:
        """Return how many processors other programs used, the median over the rounds; None if unknown."""
        return median(self.other_processors) if self.other_processors else None

    def as_json(self) -> dict[str, object]:
        """Return a dict of all fields, with the medians of the figures under `medians`."""
        names = dict.fromkeys(name for metrics in self.rounds for name in metrics)
        return asdict(self) | {"medians": {name: self.median(name) for name in names}}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Result:
        """Return the result from the dict that `as_json` returned. Missing fields get their defaults."""
        return from_dict(cls, fields)

    def _values(self, name: str) -> list[float]:
        return [metrics[name] for metrics in self.rounds if name in metrics]
