"""Ending on a signal: the first lets the batch in hand be finished, the second ends the process at once."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from types import FrameType, TracebackType

from ..console import Terminated

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SAID = b"finishing the batch in hand; a second signal ends at once\n"


class GracefulShutdown:
    """Whether a signal came, while it is used as a context."""

    def __init__(self) -> None:
        self._number: int | None = None

    def __enter__(self) -> GracefulShutdown:
        """Listen."""
        self._before = {number: signal.signal(number, self._came) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Listen no more."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __call__(self) -> bool:
        """Whether one came."""
        return self._number is not None

    def raise_if_stopped(self) -> None:
        """End the command as a signal does.

        Raises:
            Terminated: SIGTERM came.
            KeyboardInterrupt: Ctrl-C came.
        """
        if self._number is not None:
            raise Terminated if self._number == signal.SIGTERM else KeyboardInterrupt

    def _came(self, number: int, _frame: FrameType | None) -> None:
        self._number = number
        for one in _SIGNALS:
            signal.signal(one, signal.SIG_DFL)  # the system's own: it waits for no Python
        with suppress(OSError):
            os.write(2, _SAID)  # Python's stderr may be in the middle of a line
