"""What became of each contender."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from statistics import median

from .exports import Export
from .memory import Memory
from .metrics import Figures


@dataclass(frozen=True)
class Prepared:
    """What it cost to prepare a bundle, and what that gave."""

    seconds: float
    bytes: int
    start_s: float  # from nothing to loaded
    peak: Memory  # of a process that loaded and answered once


@dataclass
class Result:
    """One contender's figures while they come in."""

    name: str
    export: Export | None = None
    starts: list[float] = field(default_factory=list)  # seconds from nothing to loaded, first and second
    peak: Memory | None = None  # of a process that loaded and answered once
    prepared: Prepared | None = None
    rounds: list[Figures] = field(default_factory=list)
    decoder_bytes: int | None = None  # of weights that a decode step reads
    tool: str | None = None  # and its version, if it is not this project's
    failure: str | None = None

    def typical(self, figure: str) -> float | None:
        """Median of the rounds; None where it was not measured."""
        found = [one[figure] for one in self.rounds if figure in one]
        return median(found) if found else None

    def most(self, figure: str) -> float | None:
        """Largest of the rounds; None where it was not measured."""
        return max((one[figure] for one in self.rounds if figure in one), default=None)

    def as_json(self) -> dict[str, object]:
        """All of it, medians too."""
        names = dict.fromkeys(name for figures in self.rounds for name in figures)
        return asdict(self) | {"medians": {name: self.typical(name) for name in names}}
