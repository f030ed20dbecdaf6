"""A terminal for tests: a process that believes somebody looks on and types."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence

SIZE = (40, 100)  # lines, columns
LONGEST = 30.0  # seconds that anything may take


class Terminal:
    """A process on a terminal of its own; use it as a context."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        """Start it; its standard streams are the terminal."""
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
        self._process.wait(LONGEST)

    def type(self, keys: str) -> None:
        """As somebody at the keyboard; what was shown before is forgotten."""
        self.shown = ""
        os.write(self._end, keys.encode())

    def until(self, *words: str) -> str:
        """What has been shown once one of the words was; or all, when the process has ended."""
        deadline = time.monotonic() + LONGEST
        while not any(word in self.shown for word in words):
            ready, _, _ = select.select([self._end], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"waited for {words}, saw {self.shown!r}"
            try:
                read = os.read(self._end, 1 << 16)
            except OSError:  # the other end is closed
                return self.shown
            if not read:
                return self.shown
            self.shown += read.decode(errors="replace")
        return self.shown
