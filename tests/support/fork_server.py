"""Exports in processes that can be killed, without importing torch anew for each: a process that forks.

Run as a script it reads requests from stdin, one JSON object a line, runs each in a child and answers with
the child's id, then with how it ended.
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

from command_line import MAIN, CommandResult


class ExportServer:
    """Starts one export at a time."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.started = 0

    def __enter__(self) -> ExportServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def start(self, *arguments: object, before: str = "") -> Child:
        """Begin a command in a process of its own, `before` run first in it."""
        self.started += 1
        out, err = (self._scratch / f"{self.started}.{name}" for name in ("out", "err"))
        out.touch()
        err.touch()
        self._ask(
            {"code": before + MAIN, "argv": [str(one) for one in arguments], "out": str(out), "err": str(err)}
        )
        return Child(self, int(self._answer()), out, err)

    def run(self, *arguments: object, before: str = "") -> CommandResult:
        """Run a command to its end."""
        return self.start(*arguments, before=before).end()

    def _ask(self, request: dict[str, object]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


@dataclass(frozen=True)
class Child:
    """A command under way."""

    server: ExportServer
    pid: int
    out: Path
    err: Path

    def end(self) -> CommandResult:
        """Wait for it; the code is negative where a signal killed it."""
        code = int(self.server._answer())
        return CommandResult(code, self.out.read_text(), self.err.read_text())


def serve() -> None:
    """Answer requests until stdin ends."""
    import paligemma_onnx.export.cli.run  # noqa: F401  what makes a start slow

    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(request)
        print(child, file=answers, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)


def _become(request: dict[str, str]) -> None:
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    sys.argv = ["paligemma-onnx", *request["argv"]]
    exec(request["code"], {"__name__": "child"})  # ends in SystemExit


if __name__ == "__main__":
    serve()
