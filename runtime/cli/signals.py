"""Handlers of SIGINT (Ctrl-C) and SIGTERM while the process starts, runs a command, and ends."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from ..console import Terminated

INTERRUPTED = 130  # 128 + SIGINT, as shells report it
TERMINATED = 143  # 128 + SIGTERM
RETRY = 0.01  # seconds
_CODES = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED}


def exit_on_signals() -> None:
    """Make SIGINT and SIGTERM end the process at once, without a message.

    This suits the start and the end of the process: nothing has to be cleaned up, and an exception would be
    printed with a traceback.
    """
    _install(_exit)


def raise_on_signals() -> None:
    """Make SIGINT and SIGTERM raise an exception in the main thread, so that the command cleans up."""
    sys.unraisablehook = _send_again
    _install(_raise)


@contextmanager
def exiting_on_signals() -> Iterator[None]:
    """Make signals end the process at once during a block, and raise exceptions again after it.

    Use it for a block that imports modules: an exception in the initialization of a C++ library may abort the
    process.
    """
    if signal.getsignal(signal.SIGTERM) is not _raise:  # the command runs in another program
        yield
        return
    exit_on_signals()
    try:
        yield
    finally:
        raise_on_signals()


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """Return the exit code of a process that a signal ended."""
    return TERMINATED if isinstance(interrupt, Terminated) else INTERRUPTED


def find_interrupt(error: BaseException | None) -> KeyboardInterrupt | None:
    """Return the interrupt that caused an exception, or None.

    If a signal interrupts a C++ library while it calls Python, the library may raise a different exception.
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


def _send_again(ignored: sys.UnraisableHookArgs) -> None:
    """Send a signal again a moment later if Python ignored its exception, as it does in weak references."""
    if isinstance(ignored.exc_value, KeyboardInterrupt):
        number = signal.SIGTERM if isinstance(ignored.exc_value, Terminated) else signal.SIGINT
        timer = threading.Timer(RETRY, os.kill, (os.getpid(), number))
        timer.daemon = True
        timer.start()
    else:
        sys.__unraisablehook__(ignored)


def _raise(number: int, _frame: FrameType | None) -> None:
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
