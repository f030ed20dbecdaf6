"""Start, call and stop a process that runs a measured system (benchmarks/worker.py)."""

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

from paligemma_onnx.runtime.engine.prepared_graphs import CACHE

from .memory import Memory, PeakSampler
from .worker import LOAD

ROOT = Path(__file__).parent.parent
EXIT_TIMEOUT_S = 30.0  # seconds that a process has to exit after its stdin is closed


class ProcessFailed(Exception):
    """Raised if a measured process ends or reports an error; the other systems are still measured."""


@dataclass(frozen=True)
class ProcessSpec:
    """Description of a measured process: the class that `benchmarks.worker` constructs, and its arguments."""

    name: str
    module: str
    class_name: str
    arguments: dict[str, Any]
    files: tuple[Path, ...] = ()  # files that the process reads when it loads
    bundle: Path | None = None  # bundle for `paligemma-onnx prepare`; None: `prepare` is not measured
    profiled: bool = False  # the method `profile` of the class is called after the last round
    interpreter: str = sys.executable  # Python of the environment that has the imports of the class
    # Cache folder with prepared graphs, which the process opens; None: the process finds no prepared graphs.
    prepared: Path | None = None


class MeasuredProcess:
    """A running process of a `ProcessSpec`. As a context manager, the object stops the process at the end."""

    def __init__(self, spec: ProcessSpec, log: Path, *, sample_memory: bool = False) -> None:
        """Start the process, and wait until it has loaded its system.

        Args:
            spec: the process to start.
            log: file to which the stderr of the process is appended.
            sample_memory: measure the memory of the process until it stops, which slows the process slightly.

        Raises:
            ProcessFailed: the process does not load its system.
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
                env=None if spec.prepared is None else {**os.environ, CACHE: str(spec.prepared)},
            )
        self._sampler = PeakSampler(self.pid)
        if sample_memory:
            self._sampler.start()
        try:
            self.call(LOAD)
        except BaseException:
            self.stop()
            raise
        self.start_s = time.perf_counter() - started  # seconds from the start until the system is loaded

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def call(self, method: str, **options: Any) -> Any:
        """Call a method of the object in the process, and return its result, a JSON value.

        Raises:
            ProcessFailed: the method raised an exception, or the process ended.
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
        """Return the peak of the process's memory so far, or the memory now if it is not sampled."""
        return self._sampler.sample()

    def end_sampling(self) -> Memory:
        """Stop measuring the memory of the process, and return the peak."""
        return self._sampler.stop()

    def stop(self) -> None:
        """Close the stdin of the process, which makes it exit; kill it if it does not exit."""
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
        """Return this object."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the process."""
        self.stop()


def describe_exit(code: int) -> str:
    """Return a sentence about the end of a process, given the return code of `subprocess`."""
    if code == -signal.SIGKILL:
        return "its process was killed; the system does this when memory runs out"
    return f"its process ended with {signal.Signals(-code).name if code < 0 else f'code {code}'}"


def drop_from_page_cache(files: Iterable[Path]) -> None:
    """Ask the kernel to drop files from its page cache, so that the next reader reads the disk.

    The kernel drops only pages that are already written to disk and that no process maps (posix_fadvise(2)).
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
