"""SIGINT (Ctrl-C) and SIGTERM in a command: clean up and end the process, without an exception.

An exception that a signal handler raises can appear between any two instructions: a queue loses the item that
it returns, Python ignores the exception in a weak reference, and C++ code breaks if it passes through. So the
handler removes temporary files and ends the process itself, or waits for the end of a block.

The module imports no large library, because the handlers are installed before other modules are imported.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

# Seconds after a signal in which further signals are ignored: a program such as `timeout` may send the same
# signal to a process and to its group.
REPETITION = 0.1
_received: list[tuple[int, float]] = []  # number and time of the first signal
_cleanups: dict[object, Callable[[], object]] = {}  # of the blocks that run, the outermost first
_deferring: list[
    Callable[[], object]
] = []  # `on_signal` of the deferring blocks that run, the outermost first


def handle_signals() -> None:
    """Make SIGINT and SIGTERM end this process, with the exit code 128 plus the number of the signal."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as for a background job of a shell
            signal.signal(number, _handle)


@contextmanager
def cleaning_up(cleanup: Callable[[], object]) -> Iterator[None]:
    """Call `cleanup` at the end of a block, also if a signal ends the process during the block.

    After a signal `cleanup` runs while the block is unfinished, and its exceptions are ignored. It must not
    wait for a lock that the block may hold.
    """
    key = object()
    _cleanups[key] = cleanup
    try:
        yield
    finally:
        try:
            cleanup()
        finally:
            _cleanups.pop(key, None)


@contextmanager
def deferring_signals(on_signal: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Let a signal that arrives during a block take effect at the end of the block.

    A second signal more than REPETITION seconds later ends the process at once. The block has no effect in a
    thread other than the main thread, which handles signals.

    Args:
        on_signal: called when a signal arrives, so that the block ends early. It must not wait for a lock.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _deferring.append(on_signal)
    try:
        yield
    finally:
        _deferring.pop()
        if _received and not _deferring:
            _end()


def _handle(number: int, _frame: FrameType | None) -> None:
    if not _received:
        _received.append((number, time.monotonic()))
        for on_signal in _deferring:
            on_signal()
        if not _deferring:
            _end()
    elif time.monotonic() - _received[0][1] > REPETITION:
        _end()


def _end() -> None:
    """Clean up, the innermost block first, and end the process.

    A further signal interrupts a cleanup that takes long, and continues with the next one.
    """
    while _cleanups:
        with suppress(Exception):
            _cleanups.popitem()[1]()
    os._exit(128 + _received[0][0])
