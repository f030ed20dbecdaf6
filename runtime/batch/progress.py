"""Progress of a batch run on stderr: a bar on a terminal, otherwise one line every 30 seconds."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from typing import Any

from tqdm import tqdm

from ..console import echo_stderr
from .output_parts import Count

INTERVAL = 30.0  # seconds between lines


class Progress:
    """Counts rows and reports them; prints a summary when it is closed."""

    def __init__(self, expected: int, *, exact: bool) -> None:
        """Expect this number of rows, or about this number if it is not exact."""
        self._expected = expected
        self._about = "" if exact else "about "
        self.skipped, self.written = Count(), Count()
        self._started = self._shown = time.monotonic()
        self._bar: tqdm[Any] | None = None
        if sys.stderr.isatty():
            self._bar = tqdm(total=expected, unit="image", smoothing=0, dynamic_ncols=True, file=sys.stderr)

    def close(self) -> None:
        """Close the bar and print the summary."""
        if self._bar is not None:
            self._bar.close()
        speed = f" at {self._speed}" if self.written.rows else ""
        skipped = f", {self.skipped.rows:,} already present" if self.skipped.rows else ""
        failed = f"{self.all.errors:,} of {self.all.rows:,} failed"
        echo_stderr(f"{self.written.rows:,} rows written{speed}{skipped}; {failed}")

    @property
    def all(self) -> Count:
        """Rows of this run and earlier ones."""
        return self.skipped + self.written

    @property
    def seconds(self) -> float:
        """Seconds since the start of this run."""
        return time.monotonic() - self._started

    @property
    def images_per_second(self) -> float:
        """Speed of this run."""
        return self.written.rows / max(self.seconds, 1e-9)

    @property
    def _speed(self) -> str:
        return f"{60 * self.images_per_second:,.1f} images/min"

    def add(self, count: Count, *, is_new: bool) -> None:
        """Count rows that this run wrote (`is_new`) or an earlier one."""
        if is_new:
            self.written += count
        else:
            self.skipped += count
        if self._bar is not None:
            if not is_new:
                self._bar.initial += count.rows  # excluded from the bar's speed
            self._bar.set_postfix(errors=self.all.errors, refresh=False)
            self._bar.update(count.rows)
        elif is_new and time.monotonic() - self._shown >= INTERVAL:
            self._shown = time.monotonic()
            left = max(0, self._expected - self.all.rows) / self.images_per_second
            echo_stderr(
                f"{self.all.rows:,} of {self._about}{self._expected:,} rows, {self._speed}, "
                f"{timedelta(seconds=round(left))} left, {self.all.errors:,} failed"
            )
