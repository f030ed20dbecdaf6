"""A Ray cluster of this machine alone, as `ray start --head` makes it, and the end of one of its workers."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LONGEST = 60.0  # seconds until a cluster answers


@contextmanager
def cluster(processors: int) -> Iterator[tuple[str, int]]:
    """Its address and its process, which takes all others with it when the context ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # sockets lie below, whose paths must be short
    options = (
        *("--node-ip-address=127.0.0.1", f"--port={port}", f"--num-cpus={processors}"),
        *(f"--temp-dir={folder}", "--include-dashboard=false", "--disable-usage-stats"),
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", *options],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + LONGEST
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError("the Ray cluster does not start")
            time.sleep(0.05)
        yield f"127.0.0.1:{port}", process.pid
    finally:
        below = descendants(process.pid)
        process.kill()  # asked to end, it takes half a minute
        process.wait()
        for one in below:
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def kill_a_writer(head: int, output: Path) -> bool:
    """End a process that is amid a part of an output, at once; whether there was one."""
    for process in descendants(head):
        with suppress(OSError):  # it has ended
            held = [descriptor.readlink() for descriptor in Path(f"/proc/{process}/fd").iterdir()]
            locks = [file for file in held if file.parent == output and file.name.startswith(".part-")]
            if any(lock.with_suffix(".partial").exists() for lock in locks):
                os.kill(process, signal.SIGKILL)
                return True
    return False


def descendants(process: int) -> list[int]:
    """Processes that a process started, and those that these did; of Linux."""
    found = []
    for tasks in Path(f"/proc/{process}/task").glob("*/children"):
        for child in map(int, tasks.read_text().split()):
            found += [child, *descendants(child)]
    return found


def _listens(port: int) -> bool:
    with socket.socket() as there:
        return there.connect_ex(("127.0.0.1", port)) == 0
