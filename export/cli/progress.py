"""How far an export is: a bar on a terminal, elsewhere a line now and then; always on stderr."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from tqdm import tqdm

from paligemma_onnx.runtime.console import echo_stderr

OFTEN = 10.0  # seconds from one line to the next about the same work, where no bar is shown
GB = 1e9  # bytes


class TerminalProgress:
    """Stage and bytes written."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._interactive = sys.stderr.isatty()
        self._bar: tqdm[Any] | None = None
        self._clock = clock  # seconds
        self._stage, self._said = "", 0.0
        self._total = self._written = 0  # bytes

    def __enter__(self) -> TerminalProgress:
        """Use it as a context, so that the bar is closed whatever happens."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()

    def stage(self, text: str) -> None:
        """Say what is done from now on."""
        if not self._interactive:
            # Stages that differ in a number are steps of the same work, of which there may be a thousand.
            same = re.sub(r"\d+", "", text) == re.sub(r"\d+", "", self._stage)
            self._stage = text
            self._line(text, same=same)
            return
        if self._bar is None:
            plain = "{desc}[{elapsed}]"  # until there are bytes to count
            self._bar = tqdm(
                total=0, unit="B", unit_scale=True, file=sys.stderr, leave=False, bar_format=plain
            )
        self._bar.set_description(text)

    def set_total(self, size: int) -> None:
        """Bytes that will be written."""
        self._total, self._written = size, 0
        if self._bar is not None:
            self._bar.bar_format = None
            self._bar.reset(total=size)

    def advance(self, size: int) -> None:
        """Bytes written since the last call."""
        self._written += size
        if self._bar is not None:
            self._bar.update(size)
        elif not self._interactive:
            self._line(
                f"{self._stage}: {self._written / GB:.1f} of {self._total / GB:.1f} GB in all", same=True
            )

    def warn(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        if self._bar is None:
            echo_stderr(f"warning: {text}")
        else:
            self._bar.write(f"warning: {text}", file=sys.stderr)

    def _line(self, text: str, *, same: bool) -> None:
        """A line, unless one about the same work was written just now."""
        now = self._clock()
        if not same or now - self._said >= OFTEN:
            echo_stderr(text)
            self._said = now
