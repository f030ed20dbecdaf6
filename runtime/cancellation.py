"""Cancellation of a request from another thread, also while a graph runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Cancelled(Exception):
    """The request was cancelled."""


class Cancellation:
    """A switch that stops requests. It is thread-safe, can be triggered once and is never reset.

    Pass the same object to several requests to stop them together. A cancelled request does not
    raise an error: it returns the tokens generated so far, with the finish reason `cancelled`.

    Example:
        >>> cancel = Cancellation()
        >>> threading.Timer(5.0, cancel.cancel).start()  # seconds
        >>> model.generate("photo.jpg", "describe en", cancel=cancel).finish_reason
        'cancelled'
    """

    def __init__(self) -> None:
        self._cancelled = False
        self._running: set[Any] = set()  # run options of the graphs that are running

    def cancel(self) -> None:
        """Stop all requests that use this object, within one token.

        Any thread may call this method, also repeatedly.
        """
        self._cancelled = True  # without a lock: a signal handler may interrupt this method and call it
        for run_options in tuple(self._running):
            run_options.terminate = True

    @property
    def cancelled(self) -> bool:
        """True after `cancel` was called."""
        return self._cancelled

    def check(self) -> None:
        """Raise Cancelled after `cancel` was called."""
        if self.cancelled:
            raise Cancelled

    @contextmanager
    def watching(self, run_options: Any) -> Iterator[Any]:
        """Let `cancel` terminate the graph that runs with these `onnxruntime.RunOptions`.

        Raises:
            Cancelled: `cancel` was called before the block starts.
        """
        self._running.add(run_options)
        try:
            self.check()  # after `add`, so that no call of `cancel` is missed
            yield run_options
        finally:
            self._running.discard(run_options)
