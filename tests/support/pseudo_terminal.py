"""A process on a pseudo-terminal: it sees an interactive terminal, and a test types into it."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence

from time_limits import HANG

SIZE = (40, 100)  # lines, columns


class Terminal:
    """A process whose standard streams are a new pseudo-terminal; use it as a context manager."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        """Start the process."""
        self.shown = ""
        self._end, other = pty.openpty()
        termios.tcsetwinsize(other, SIZE)
        self._process = subprocess.Popen(
            command,
            stdin=other,
            stdout=other,
            stderr=other,
            env=env,
            start_new_session=True,
        )
        os.close(other)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._end)  # hangs up
        self._process.wait(HANG)

    def type(self, keys: str) -> None:
        """Send keys to the process and clear `shown`."""
        self.shown = ""
        os.write(self._end, keys.encode())

    def read_until(self, *words: str) -> str:
        """Read output until one of the words appears or the process ends; return all of `shown`."""
        deadline = time.monotonic() + HANG
        while not any(word in self.shown for word in words):
            ready, _, _ = select.select([self._end], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"waited for {words}, read {self.shown!r}"
            try:
                read = os.read(self._end, 1 << 16)
            except OSError:  # the other end is closed
                return self.shown
            if not read:
                return self.shown
            self.shown += read.decode(errors="replace")
        return self.shown
