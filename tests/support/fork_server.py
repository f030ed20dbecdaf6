"""Run command lines in processes that can be killed, forked from one that has imported torch already.

Run as a script, this module reads requests from stdin, one JSON object per line. It runs each in a forked
child and prints the child's process id, and then its exit code when it ends.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

from command_line import MAIN, CommandResult


class ForkServer:
    """Runs one command at a time."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch  # for the output of commands
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._started = 0

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def start(self, *arguments: object, before: str = "") -> Child:
        """Start a command in a child process, which runs the code `before` first."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._started += 1
        out, err = (self._scratch / f"{self._started}.{name}" for name in ("out", "err"))
        out.touch()
        err.touch()
        argv = [str(argument) for argument in arguments]
        request = {"code": before + MAIN, "argv": argv, "out": str(out), "err": str(err)}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return Child(self._process.stdout, int(self._process.stdout.readline()), out, err)

    def run(self, *arguments: object, before: str = "") -> CommandResult:
        """Run a command and wait for its end."""
        return self.start(*arguments, before=before).wait()


@dataclass(frozen=True)
class Child:
    """A running command."""

    replies: IO[str]  # of the server
    pid: int
    out: Path
    err: Path

    def wait(self) -> CommandResult:
        """Wait for the end; the exit code is negative if a signal killed the process."""
        code = int(self.replies.readline())
        return CommandResult(code, self.out.read_text(), self.err.read_text())


def serve() -> None:
    """Run commands until stdin ends."""
    import paligemma_onnx.export.cli.run  # noqa: F401  imported once, because it takes seconds

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores SIGINT
    replies = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _run_request(request)
        print(child, file=replies, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=replies, flush=True)


def _run_request(request: dict[str, str]) -> None:
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    sys.argv = ["paligemma-onnx", *request["argv"]]
    exec(request["code"], {"__name__": "child"})  # ends in SystemExit


if __name__ == "__main__":
    serve()
