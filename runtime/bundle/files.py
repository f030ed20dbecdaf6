"""A file held against what is recorded of it, and put on the disk."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from .manifest import FileSpec


def record_file(path: Path, *, hashed: bool) -> FileSpec:
    """Size and, if asked for, SHA-256 of a file; raises OSError."""
    return FileSpec(path.stat().st_size, sha256(path) if hashed else "")


def file_problem(path: Path, expected: FileSpec, *, hashed: bool) -> str | None:
    """What is wrong with a file, in words that begin with its name; None if nothing is."""
    try:
        if not path.is_file():
            return f"{path.name} is missing"
        size = path.stat().st_size
        if size != expected.bytes:
            return f"{path.name} has {size} bytes instead of {expected.bytes}"
        if hashed and sha256(path) != expected.sha256:
            return f"{path.name} is altered (another SHA-256)"
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror})"
    return None


def sha256(path: Path) -> str:
    """In hexadecimal digits; raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Have the system put a file or folder on the disk, so that a power cut finds it whole."""
    if os.name != "posix" and path.is_dir():
        return  # Windows opens no folders
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
