"""Memory of this process, from /proc."""

from __future__ import annotations

from pathlib import Path

STATUS = Path("/proc/self/status")  # exists on Linux


def anonymous_bytes() -> int:
    """Return the bytes of this process's memory that no file backs (RssAnon)."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024
