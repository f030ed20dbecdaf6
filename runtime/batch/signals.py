"""Stop a batch run on SIGINT or SIGTERM.

The first signal ends the run after the current batch; the second signal ends the run immediately.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from types import FrameType

from ..console import Terminated

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_MESSAGE = b"finishing the current batch; press Ctrl-C or send the signal again to stop immediately\n"


class GracefulShutdown:
    """Signal handlers that record a signal instead of raising an exception, until `close` is called.

    Calling the object returns whether a signal arrived.
    """

    def __init__(self) -> None:
        self._number: int | None = None
        self._previous = {number: signal.signal(number, self._record) for number in _SIGNALS}

    def close(self) -> None:
        """Restore the previous handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def __call__(self) -> bool:
        """Return whether a signal arrived."""
        return self._number is not None

    def raise_if_stopped(self) -> None:
        """If a signal arrived, raise the exception that ends the command.

        Raises:
            Terminated: after SIGTERM.
            KeyboardInterrupt: after SIGINT (Ctrl-C).
        """
        if self._number is not None:
            raise Terminated if self._number == signal.SIGTERM else KeyboardInterrupt

    def _record(self, number: int, _frame: FrameType | None) -> None:
        self._number = number
        for handled in _SIGNALS:
            # The default action ends the process even while the process runs a graph and no Python code.
            signal.signal(handled, signal.SIG_DFL)
        with suppress(OSError):
            os.write(2, _MESSAGE)  # Python's stderr may hold its lock: the handler interrupts any code
