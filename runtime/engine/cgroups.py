"""Limits of CPU time and memory that a container or a job scheduler sets with Linux control groups.

The limits of a process are those of its control group and of all groups above it. Inside a container
`/proc/self/cgroup` may name a path on the host that is not visible; the mounted root is then the container's
group. Documentation: Linux, admin-guide/cgroup-v2.rst, and sched-bwc.rst for version 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

SYSTEM = Path("/")


def cpu_limit(system: Path = SYSTEM) -> int | None:
    """Return the number of processors whose time the process may use, rounded up; None: no limit."""
    shares = []
    for group in _groups(system, "cpu"):
        match _read(
            group / "cpu.max"
        ).split():  # version 2: microseconds per period, or "max", and the period
            case [quota, period] if _is_positive(quota) and _is_positive(period):
                shares.append(int(quota) / int(period))
        quota, period = _read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")
        if _is_positive(quota) and _is_positive(period):  # version 1: a quota of -1 means no limit
            shares.append(int(quota) / int(period))
    return math.ceil(min(shares)) if shares else None


def memory_limit(system: Path = SYSTEM) -> int | None:
    """Return the number of bytes that the process may use; None: no limit."""
    texts = (
        _read(group / name)
        for group in _groups(system, "memory")
        for name in ("memory.max", "memory.limit_in_bytes")
    )
    return min((int(text) for text in texts if text.isdecimal()), default=None)


def _groups(system: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of the process's control groups for a controller, and of all groups above them.

    A folder may not exist.
    """
    mounts = system / "sys" / "fs" / "cgroup"
    yield mounts  # version 2, also if /proc cannot be read
    yield mounts / controller  # version 1
    for line in _read(system / "proc" / "self" / "cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        path = PurePosixPath(name.lstrip("/"))
        if ".." in path.parts:  # the group is outside of the container's namespace
            continue
        if not controllers:
            roots = [mounts, mounts / "unified"]
        elif controller in controllers.split(","):
            roots = [mounts / controllers, mounts / controller]
        else:
            continue
        for root in roots:
            visible = _visible_part(root, path)
            yield from (root / part for part in (visible, *visible.parents))


def _visible_part(root: Path, path: PurePosixPath) -> PurePosixPath:
    """Return the part of a group's path below the mounted root, which may be a group itself."""
    ends = (PurePosixPath(*path.parts[start:]) for start in range(len(path.parts)))
    return next((end for end in ends if (root / end.parts[0]).is_dir()), PurePosixPath())


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _is_positive(text: str) -> bool:
    return text.isdecimal() and int(text) > 0
