"""How far a batch is: a bar on a terminal, elsewhere a line every 30 seconds; always on stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from tqdm import tqdm

from ..console import echo_stderr
from .output_parts import Count

EVERY = 30.0  # seconds between lines


class Progress:
    """Counts rows, and shows them."""

    def __init__(self, total: int, *, exact: bool) -> None:
        self._total = total
        self._about = "" if exact else "about "
        self.before, self.now = Count(), Count()
        self._started = self._shown = time.monotonic()
        self._bar: tqdm[Any] | None = None
        if sys.stderr.isatty():
            self._bar = tqdm(total=total, unit="image", smoothing=0, dynamic_ncols=True, file=sys.stderr)

    def __enter__(self) -> Progress:
        """Use it as a context, so that the bar is closed whatever happens."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the bar and say how it ended."""
        if self._bar is not None:
            self._bar.close()
        rate = f" at {self.images_per_second:.2f} images a second" if self.now.rows else ""
        earlier = f", {self.before.rows:,} were there already" if self.before.rows else ""
        errors = f"{self.all.errors:,} of {self.all.rows:,} are errors"
        echo_stderr(f"{self.now.rows:,} rows written{rate}{earlier}; {errors}")

    @property
    def all(self) -> Count:
        """Rows of this run and those before it."""
        return self.before + self.now

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._started

    @property
    def images_per_second(self) -> float:
        """Of this run."""
        return self.now.rows / max(self.seconds, 1e-9)

    def passed(self, count: Count) -> None:
        """Rows that an earlier run wrote."""
        self.before += count
        if self._bar is not None:
            self._bar.initial += count.rows  # of which its rate knows nothing
            self._show(count)

    def answered(self, count: Count) -> None:
        """Rows that were written now."""
        self.now += count
        self._show(count)

    def _show(self, count: Count) -> None:
        if self._bar is not None:
            self._bar.set_postfix(errors=self.all.errors, refresh=False)
            self._bar.update(count.rows)
        elif time.monotonic() - self._shown >= EVERY:
            self._shown = time.monotonic()
            left = max(0, self._total - self.all.rows) / self.images_per_second
            echo_stderr(
                f"{self.all.rows:,} of {self._about}{self._total:,}, {self.images_per_second:.2f} images "
                f"a second, {_time(left)} left, {self.all.errors:,} errors"
            )


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
