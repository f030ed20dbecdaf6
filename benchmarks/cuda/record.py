"""The parts of a run, one behind the other in a budget of time; what they find is written as it comes."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ..exports import ExportFailed
from ..measured_process import ContenderFailed

Found = dict[str, Any]  # what JSON can hold


@dataclass(frozen=True)
class Budget:
    """Seconds for all parts together."""

    seconds: float
    clock: Callable[[], float] = time.perf_counter
    started: float = field(init=False)

    def __post_init__(self) -> None:
        """It runs from now on."""
        object.__setattr__(self, "started", self.clock())

    def left(self) -> float:
        """Seconds."""
        return max(0.0, self.started + self.seconds - self.clock())


@dataclass(frozen=True)
class Part:
    """Something to find out, apart from all else."""

    name: str
    least_s: float  # with less time than this left it is not begun
    work: Callable[[], Iterator[Found]]  # gives all that it has found so far, again and again


@dataclass(frozen=True)
class Course:
    """What became of a part."""

    state: Literal["running", "done", "failed", "skipped"]
    seconds: float = 0.0
    why: str | None = None  # it failed or was skipped


class Record:
    """All that is known so far."""

    def __init__(self, budget: Budget, store: Callable[[Mapping[str, Any]], object]) -> None:
        """Begin with nothing.

        Args:
            budget: of time.
            store: takes the parts' courses and findings whenever there is something new.
        """
        self.budget = budget
        self.found: dict[str, Found] = {}
        self.courses: dict[str, Course] = {}
        self._store = store

    def run(self, part: Part) -> Course:
        """Do a part if there is time for it; what goes wrong in it is noted, and the others go on."""
        left = self.budget.left()
        if left < part.least_s:
            why = f"it needs about {part.least_s:.0f} s, and {left:.0f} s are left"
            return self._note(part, Course("skipped", why=why))
        started = self.budget.clock()

        def seconds() -> float:
            return round(self.budget.clock() - started, 1)

        self._note(part, Course("running"))
        try:
            for found in part.work():
                self.found[part.name] = found
                self._note(part, Course("running", seconds()))
        except (ContenderFailed, ExportFailed, TimeoutError) as failed:
            return self._note(part, Course("failed", seconds(), str(failed)))
        except Exception as error:  # whatever it is, it is one part's
            traceback.print_exc()
            return self._note(part, Course("failed", seconds(), f"{type(error).__name__}: {error}"))
        return self._note(part, Course("done", seconds()))

    def document(self) -> dict[str, Any]:
        """For JSON, and for the verdicts."""
        return {"parts": {name: asdict(one) for name, one in self.courses.items()}, **self.found}

    def _note(self, part: Part, course: Course) -> Course:
        self.courses[part.name] = course
        self._store(self.document())
        return course
