"""Stopping a request from another thread, within one run of a graph."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Cancelled(Exception):
    """The request was cancelled."""


class Cancellation:
    """A switch that `cancel()` throws once; safe to throw from any thread or signal handler."""

    def __init__(self) -> None:
        self._thrown = threading.Event()
        self._running: Any = None

    def cancel(self) -> None:
        """Stop the graph that runs now, and every later one of this request."""
        self._thrown.set()
        running = self._running
        if running is not None:
            running.terminate = True

    @property
    def cancelled(self) -> bool:
        """Whether the switch was thrown."""
        return self._thrown.is_set()

    def check(self) -> None:
        """Raise Cancelled when the switch was thrown."""
        if self.cancelled:
            raise Cancelled

    @contextmanager
    def watching(self, run_options: Any) -> Iterator[Any]:
        """Let `cancel` end the run that uses these `onnxruntime.RunOptions`."""
        self._running = run_options
        try:
            self.check()  # after the assignment, so that no throw falls between
            yield run_options
        finally:
            self._running = None
