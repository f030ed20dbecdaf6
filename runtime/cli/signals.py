"""Exit codes of commands that SIGINT (Ctrl-C) or SIGTERM ended."""

from __future__ import annotations

from ..console import Terminated

INTERRUPTED = 130  # 128 + SIGINT, as shells report it
TERMINATED = 143  # 128 + SIGTERM


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
