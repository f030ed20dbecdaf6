"""Progress of an export on stderr: a bar on a terminal, otherwise a line every 10 seconds."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from tqdm import tqdm

from paligemma_onnx.runtime.console import echo_stderr, printable
from paligemma_onnx.runtime.interrupts import cleaning_up

INTERVAL = 10.0  # seconds between lines about the same work, if there is no bar
GB = 1e9  # bytes


class TerminalProgress:
    """Display of the current stage and of the number of bytes written; use it as a context manager."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._interactive = sys.stderr.isatty()
        self._bar: tqdm[Any] | None = None
        self._clock = clock  # seconds
        self._stage, self._printed = "", 0.0  # _printed: time of the last line, in seconds
        self._total = self._written = 0  # bytes
        self._closing = cleaning_up(self._close)

    def __enter__(self) -> TerminalProgress:
        """Return the object itself."""
        self._closing.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the bar, also after an error."""
        self._closing.__exit__(kind, error, trace)

    def stage(self, text: str) -> None:
        """Show the name of the stage that starts now."""
        if not self._interactive:
            # Stages that differ only in numbers are steps of the same work; there may be thousands.
            same = re.sub(r"\d+", "", text) == re.sub(r"\d+", "", self._stage)
            self._stage = text
            self._print(text, same=same)
            return
        if self._bar is None:
            plain = "{desc}[{elapsed}]"  # format of the bar until the number of bytes is known
            self._bar = tqdm(
                total=0, unit="B", unit_scale=True, file=sys.stderr, leave=False, bar_format=plain
            )
        self._bar.set_description(printable(text))

    def set_total(self, size: int) -> None:
        """Set the number of bytes to write, and reset the number of bytes written to 0."""
        self._total, self._written = size, 0
        if self._bar is not None:
            self._bar.bar_format = None
            self._bar.reset(total=size)

    def advance(self, size: int) -> None:
        """Add `size`, the number of bytes written since the last call."""
        self._written += size
        if self._bar is not None:
            self._bar.update(size)
        elif not self._interactive:
            self._print(f"{self._stage}: {self._written / GB:.1f} of {self._total / GB:.1f} GB", same=True)

    def warn(self, text: str) -> None:
        """Print a warning, above the bar if there is one."""
        if self._bar is None:
            echo_stderr(f"warning: {text}")
        else:
            self._bar.write(printable(f"warning: {text}"), file=sys.stderr)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def _print(self, text: str, *, same: bool) -> None:
        """Print a line. If `same`, print it only if the last line is at least INTERVAL seconds old."""
        now = self._clock()
        if not same or now - self._printed >= INTERVAL:
            echo_stderr(text)
            self._printed = now
