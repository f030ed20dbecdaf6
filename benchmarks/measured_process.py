"""A process that is measured, seen from the process that compares."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from .memory import Memory, PeakSampler
from .worker import LOAD

ROOT = Path(__file__).parent.parent
EXIT_TIMEOUT_S = 30.0  # seconds that a process has to exit after its stdin is closed


class ProcessFailed(Exception):
    """A measured process ended or reported an error; the others are measured nevertheless."""


@dataclass(frozen=True)
class ProcessSpec:
    """How to start a measured process: a class that `benchmarks.worker` constructs."""

    name: str
    module: str
    class_name: str
    arguments: dict[str, Any]
    files: tuple[Path, ...] = ()  # read while loading
    bundle: Path | None = None  # the bundle to run `paligemma-onnx prepare` on; None: nothing to prepare
    profiled: bool = False  # its method `profile` is called after the last round
    interpreter: str = sys.executable  # of the environment that has what the class imports


class MeasuredProcess:
    """A running process of a `ProcessSpec`; as a context manager it ends the process on exit."""

    def __init__(self, spec: ProcessSpec, log: Path, *, sample_memory: bool = False) -> None:
        """Start the process and wait until it has loaded.

        Args:
            spec: what to run.
            log: receives the process's stderr.
            sample_memory: sample its memory all the time, which slows it down slightly.

        Raises:
            ProcessFailed: it does not load.
        """
        self.spec = spec
        started = time.perf_counter()
        arguments = [spec.module, spec.class_name, json.dumps(spec.arguments)]
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [spec.interpreter, "-m", "benchmarks.worker", *arguments],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        self._sampler = PeakSampler(self.pid)
        if sample_memory:
            self._sampler.start()
        try:
            self.call(LOAD)
        except BaseException:
            self.stop()
            raise
        self.start_s = time.perf_counter() - started  # from starting the process until it has loaded

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def call(self, method: str, **options: Any) -> Any:
        """Call a method of the object in the process and return its result, a JSON value.

        Raises:
            ProcessFailed: the method raised, or the process ended.
        """
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        line = b""
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps([method, options]).encode() + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
        if not line:
            raise ProcessFailed(describe_exit(process.wait()))
        reply = json.loads(line)
        if "error" in reply:
            raise ProcessFailed(reply["error"])
        return reply.get("answer")

    def peak_memory(self) -> Memory:
        """Return the peak of its memory so far, if it is sampled."""
        return self._sampler.sample()

    def stop(self) -> None:
        """End the process: close its stdin, and kill it if it does not exit."""
        self._sampler.stop()
        with suppress(OSError, subprocess.TimeoutExpired):
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait(EXIT_TIMEOUT_S)
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __enter__(self) -> MeasuredProcess:
        """Return this process."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process."""
        self.stop()


def describe_exit(code: int) -> str:
    """Return a sentence about how a process ended, from `subprocess`'s return code."""
    if code == -signal.SIGKILL:
        return "its process was killed, as the system does when memory runs out"
    return f"its process ended with {signal.Signals(-code).name if code < 0 else f'code {code}'}"


def drop_from_page_cache(files: Iterable[Path]) -> None:
    """Ask the kernel to drop files from its page cache, so that loading reads the disk.

    Only pages that are on disk and that no process maps are dropped (posix_fadvise(2)).
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
