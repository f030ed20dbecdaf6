"""How far an export is: a bar on a terminal, a line a stage elsewhere; always on stderr."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from tqdm import tqdm

from paligemma_onnx.runtime.terminal import say


class TerminalProgress:
    """Stage and bytes written."""

    def __init__(self) -> None:
        self._interactive = sys.stderr.isatty()
        self._bar: tqdm[Any] | None = None

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
            say(text)
            return
        if self._bar is None:
            self._bar = tqdm[Any](total=0, unit="B", unit_scale=True, file=sys.stderr, leave=False)
        self._bar.set_description(text)

    def total(self, size: int) -> None:
        """Bytes that will be written."""
        if self._bar is not None:
            self._bar.reset(total=size)

    def wrote(self, size: int) -> None:
        """Bytes written since the last call."""
        if self._bar is not None:
            self._bar.update(size)

    def warn(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        if self._bar is None:
            say(f"warning: {text}")
        else:
            self._bar.write(f"warning: {text}", file=sys.stderr)
