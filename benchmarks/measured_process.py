"""Who is measured, and the process in which that happens, as the comparing process sees them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from .memory import Memory, PeakWatch
from .worker import LOAD

ROOT = Path(__file__).parent.parent
PATIENCE = 30.0  # seconds a process has to end by itself


class ContenderFailed(Exception):
    """A contender ended, or said that it cannot; the others go on."""


@dataclass(frozen=True)
class Contender:
    """Someone to measure: a class that is made in a process of its own."""

    name: str
    module: str
    kind: str  # the class in that module
    arguments: dict[str, Any]
    files: tuple[Path, ...] = ()  # what loading reads
    bundle: Path | None = None  # that can be prepared to open quickly
    interpreter: str = sys.executable  # that of an environment which has what the class imports


class Running:
    """A contender's process. Used as a context, it ends with it."""

    def __init__(
        self, contender: Contender, log: Path, *, watched: bool = False, limit_s: float | None = None
    ) -> None:
        """Start, and wait until it has loaded.

        Args:
            contender: who.
            log: takes what the process writes on stderr.
            watched: look at its memory all the time, which slows it a little.
            limit_s: seconds after which it is ended, whatever it does; None: never.

        Raises:
            ContenderFailed: it does not load.
        """
        self.contender = contender
        started = time.perf_counter()
        arguments = [contender.module, contender.kind, json.dumps(contender.arguments)]
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [contender.interpreter, "-m", "benchmarks.worker", *arguments],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        self._watch = PeakWatch(self._process.pid)
        if watched:
            self._watch.start()
        self._too_late: str | None = None
        self._timer: threading.Timer | None = None
        if limit_s is not None:
            self._timer = threading.Timer(limit_s, self._expire, [f"it took longer than {limit_s:.0f} s"])
            self._timer.daemon = True
            self._timer.start()
        try:
            self.call(LOAD)
        except BaseException:
            self.stop()
            raise
        self.start_s = time.perf_counter() - started  # from nothing until it can be asked

    def call(self, method: str, **options: Any) -> Any:
        """What a method of the contender gives.

        Raises:
            ContenderFailed: it raised, or its process ended.
        """
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        reply = b""
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps([method, options]).encode() + b"\n")
            process.stdin.flush()
            reply = process.stdout.readline()
        if not reply:
            ended = how_it_ended(process.wait())
            raise ContenderFailed(self._too_late or ended)
        answer = json.loads(reply)
        if "error" in answer:
            raise ContenderFailed(answer["error"])
        return answer.get("answer")

    def peak(self) -> Memory:
        """The most memory it has had so far, if it was watched."""
        return self._watch.look()

    def stop(self) -> None:
        """End the process, by force if it does not want to."""
        if self._timer is not None:
            self._timer.cancel()
        self._watch.stop()
        with suppress(OSError, subprocess.TimeoutExpired):
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait(PATIENCE)
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _expire(self, why: str) -> None:
        self._too_late = why
        self._process.kill()

    def __enter__(self) -> Running:
        """Use it as a context."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process."""
        self.stop()


def how_it_ended(code: int) -> str:
    """The end of a process in words."""
    if code == -signal.SIGKILL:
        return "its process was killed, as the system does when memory runs out"
    return f"its process ended with {signal.Signals(-code).name if code < 0 else f'code {code}'}"


def forget(files: Iterable[Path]) -> None:
    """Ask the system to drop files from its cache, so that loading reads the disk.

    It does so for pages that nobody maps and that are on disk.
    """
    if not hasattr(os, "posix_fadvise"):
        return
    for file in files:
        handle = os.open(file, os.O_RDONLY)
        try:
            os.fdatasync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)
