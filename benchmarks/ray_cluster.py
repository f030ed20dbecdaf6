"""Start a Ray cluster on this machine as `ray start --head` does, and kill one of its workers."""

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

import psutil

START_TIMEOUT_S = 60.0  # maximum seconds from the start until the cluster accepts connections


@contextmanager
def ray_cluster(processors: int) -> Iterator[tuple[str, int]]:
    """Start a cluster, yield its address and the id of its head process, and kill the cluster at the end.

    Raises:
        RuntimeError: the cluster does not start.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # contains sockets, whose paths must be short
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
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the Ray cluster does not start")
            time.sleep(0.05)
        yield f"127.0.0.1:{port}", process.pid
    finally:
        children = descendants(process.pid)
        process.kill()  # after SIGTERM, Ray takes half a minute to stop
        process.wait()
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def kill_a_writer(head: int, output: Path) -> bool:
    """Kill a process of the cluster that is writing a part of `output`; return whether one was found."""
    for process in descendants(head):
        with suppress(OSError):  # the process has ended
            held = [descriptor.readlink() for descriptor in Path(f"/proc/{process}/fd").iterdir()]
            locks = [file for file in held if file.parent == output and file.name.startswith(".part-")]
            if any(lock.with_suffix(".partial").exists() for lock in locks):
                os.kill(process, signal.SIGKILL)
                return True
    return False


def descendants(process: int) -> list[int]:
    """Return the ids of a process's children and of their descendants."""
    try:
        return [child.pid for child in psutil.Process(process).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
