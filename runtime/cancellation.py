"""Stopping a request from another thread, within one run of a graph."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Cancelled(Exception):
    """The request was cancelled."""


class Cancellation:
    """A switch that `cancel()` throws once, from any thread; every request that holds it stops."""

    def __init__(self) -> None:
        self._thrown = threading.Event()
        self._running: set[Any] = set()  # run options of the graphs that run now

    def cancel(self) -> None:
        """Stop the graph that runs now, and every later one of this request."""
        self._thrown.set()
        for running in tuple(self._running):
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
        self._running.add(run_options)
        try:
            self.check()  # after it was added, so that no throw falls between
            yield run_options
        finally:
            self._running.discard(run_options)
