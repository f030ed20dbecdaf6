"""Record what a process writes and which sockets it opens.

Three observers: a walk over the user's folders, an audit hook in every Python process, and strace, which also
sees code in C++, where it is installed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from time_limits import HANG

STRACE = shutil.which("strace")
AUDIT = """
import os, sys
_log = os.open(os.environ["AUDIT_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def _record(event, arguments):
    if event == "open" and isinstance(arguments[2], int) and isinstance(arguments[0], (str, bytes)):
        if arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            os.write(_log, b"write " + os.path.abspath(os.fsencode(arguments[0])) + b"\\n")
    elif event == "os.mkdir":
        os.write(_log, b"write " + os.path.abspath(os.fsencode(arguments[0])) + b"\\n")
    elif event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.bind"):
        os.write(_log, f"socket {event} {arguments[1:]!r}\\n".encode())
sys.addaudithook(_record)
"""
CALLS = "open,openat,creat,mkdir,mkdirat,rename,renameat,renameat2,link,symlink,socket"
_WRITE = re.compile(
    r'(?:open|openat)\((?:AT_FDCWD, )?"([^"]*)", [^)]*(?:O_WRONLY|O_RDWR|O_CREAT)[^)]*\) = \d'
    r'|(?:creat|mkdir|mkdirat|rename|renameat|renameat2|link|symlink)\((?:AT_FDCWD, )?"([^"]*)".*\) = \d'
)
_SOCKET = re.compile(r"socket\((AF_(?!UNIX|LOCAL)\w+), ")
# Devices, descriptions of the process, and semaphores, which the kernel keeps in memory.
_HARMLESS = ("/dev/null", "/dev/tty", "/dev/shm/sem.", "/proc/", "/sys/")


@dataclass(frozen=True)
class SideEffects:
    """Files, writes and sockets of a process outside of the folders that it may use."""

    files: frozenset[str]  # new or changed files and folders of the user
    writes: frozenset[str]  # paths that were opened for writing or made
    sockets: frozenset[str]  # network sockets and name look-ups


def observe(
    command: Sequence[str], root: Path, allowed: Sequence[Path], env: Mapping[str, str]
) -> SideEffects:
    """Run a command for a user with a new home folder, outside of continuous integration.

    Args:
        command: the command and its arguments.
        root: new folder; HOME, TMPDIR and the current folder are made in it.
        allowed: files and folders that the command may write.
        env: further variables.
    """
    home, scratch, current, hook = (root / name for name in ("home", "tmp", "cwd", "hook"))
    for folder in (home, scratch, current, hook):
        folder.mkdir(parents=True)
    (hook / "sitecustomize.py").write_text(AUDIT)
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "LANG") if name in os.environ}
    path = os.pathsep.join(filter(None, (str(hook), os.environ.get("PYTHONPATH", ""))))
    variables = {
        "HOME": str(home),
        "TMPDIR": str(scratch),
        "PYTHONPATH": path,
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    variables |= {"AUDIT_LOG": str(root / "audit")}
    trace = root / "trace"
    traced = (
        ()
        if STRACE is None
        else (STRACE, "-f", "-qq", "-s", "4096", "-e", f"trace={CALLS}", "-o", str(trace))
    )
    before = _walk(root, allowed)
    done = subprocess.run(
        [*traced, *command],
        cwd=current,
        env={**kept, **variables, **env},
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "telemetry" not in done.stderr.lower(), done.stderr
    writes, sockets = set[str](), set[str]()
    for line in (root / "audit").read_text(errors="replace").splitlines():
        kind, _, what = line.partition(" ")
        (writes if kind == "write" else sockets).add(what)
    for line in trace.read_text(errors="replace").splitlines() if trace.exists() else ():
        if match := _WRITE.search(line):
            writes.add(os.path.normpath(current / (match[1] or match[2])))
        if match := _SOCKET.search(line):
            sockets.add(match[1])
    places = (*allowed, scratch, root / "audit")  # files in TMPDIR must be gone at the end, as `files` shows
    return SideEffects(
        frozenset(_walk(root, allowed) ^ before),
        frozenset(
            path
            for path in writes
            if not path.startswith(_HARMLESS)
            and not any(Path(path).is_relative_to(place) for place in places)
        ),
        frozenset(sockets),
    )


def _walk(root: Path, allowed: Sequence[Path]) -> set[str]:
    """Return the path and time of change of each file and folder in HOME, TMPDIR and the current folder."""
    return {
        f"{path} {path.lstat().st_mtime_ns}"
        for name in ("home", "tmp", "cwd")
        for path in (root / name).rglob("*")
        if not any(path.is_relative_to(place) for place in allowed)
    }
