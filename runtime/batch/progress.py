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
    """Counter of rows that prints the progress of a run, and prints a summary when `close` is called."""

    def __init__(self, expected: int, *, exact: bool) -> None:
        """Start to count; `expected` is the number of rows, or an estimate of this number if not `exact`."""
        self._expected = expected
        self._about = "" if exact else "about "
        self.skipped, self.written = Count(), Count()
        self._started = self._shown = time.monotonic()
        self._bar: tqdm[Any] | None = None
        if sys.stderr.isatty():
            bar = tqdm(total=expected, unit="image", smoothing=0, dynamic_ncols=True, file=sys.stderr)
            self._bar = None if bar.disable else bar  # the variable TQDM_DISABLE disables bars

    def close(self) -> None:
        """Close the bar and print the summary."""
        if self._bar is not None:
            self._bar.close()
        speed = f" at {self._speed}" if self.written.rows else ""
        skipped = f", {self.skipped.rows:,} already present" if self.skipped.rows else ""
        failed = f"{self.all.errors:,} of {self.all.rows:,} failed"
        total = self.all
        score = (
            f"; exact match {total.exact_matches:,} of {total.scored:,}, token accuracy "
            f"{total.token_accuracy / total.scored:.4f}"
            if total.scored
            else ""
        )
        echo_stderr(f"{self.written.rows:,} rows written{speed}{skipped}; {failed}{score}")

    @property
    def all(self) -> Count:
        """Rows that this run and earlier runs wrote."""
        return self.skipped + self.written

    @property
    def seconds(self) -> float:
        """Seconds since the start of this run."""
        return time.monotonic() - self._started

    @property
    def images_per_second(self) -> float:
        """Rows that this run wrote, per second."""
        return self.written.rows / max(self.seconds, 1e-9)

    @property
    def _speed(self) -> str:
        return f"{60 * self.images_per_second:,.1f} images/min"

    def add(self, count: Count, *, is_new: bool) -> None:
        """Add rows that this run wrote (if `is_new`) or that an earlier run wrote."""
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
