"""What SIGINT (Ctrl-C) and SIGTERM do while the process starts, runs a command, and ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType

from ..console import Terminated

INTERRUPTED = 130  # 128 + SIGINT, as shells report it
TERMINATED = 143  # 128 + SIGTERM
_CODES = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED}


def exit_on_signals() -> None:
    """End the process at once and without a message on a signal, while it starts and ends.

    Nothing has to be cleaned up then, and an exception would be printed with a traceback.
    """
    _install(_exit)


def raise_on_signals() -> None:
    """Raise KeyboardInterrupt or Terminated in the main thread on a signal, so that the command cleans up."""
    _install(_raise)


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """Return the exit code of a process that a signal ended."""
    return TERMINATED if isinstance(interrupt, Terminated) else INTERRUPTED


def find_interrupt(error: BaseException | None) -> KeyboardInterrupt | None:
    """Return the interrupt that caused an exception, or None.

    A library in C++ that was interrupted while it called Python may raise an exception of its own.
    """
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error


def _install(handler: Callable[[int, FrameType | None], object]) -> None:
    for number in _CODES:
        if signal.getsignal(number) != signal.SIG_IGN:  # as for a background job of a shell
            signal.signal(number, handler)


def _exit(number: int, _frame: FrameType | None) -> None:
    os._exit(_CODES[signal.Signals(number)])


def _raise(number: int, _frame: FrameType | None) -> None:
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
