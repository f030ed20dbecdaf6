"""Is a bundle whole? Sizes, graphs and tokenizer at every load, every byte on request."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from ..errors import BundleError
from .schema import TENSOR_TABLE, FileSpec, Manifest

MOST_PROBLEMS = 10  # named in one message


def check_files(folder: Path, manifest: Manifest) -> None:
    """Every file is there and as long as the manifest says, and those but the weights are byte by byte.

    A graph with one bit changed may well load, and answer something else. Reading graphs and tokenizer takes
    less time than parsing them; the weights are gigabytes and wait for `verify`.

    Raises:
        BundleError: naming each file that is missing, of another size, or altered.
    """
    small = (*(graph.file for graph in manifest.graphs.every), manifest.tokens.file, TENSOR_TABLE)
    files = manifest.files.items()
    _raise(folder, [file_problem(folder / name, spec, hashed=name in small) for name, spec in files])


def check_every_byte(folder: Path, manifest: Manifest, progress: Callable[[str], object]) -> None:
    """Every file is the exporter's.

    Raises:
        BundleError: naming each file that is missing, of another size, or altered.
    """
    problems = []
    for name, spec in manifest.files.items():
        progress(f"checking {name}")
        problems.append(file_problem(folder / name, spec, hashed=True))
    _raise(folder, problems)


def _raise(folder: Path, found: list[str | None]) -> None:
    problems = [problem for problem in found if problem is not None]
    if problems:
        more = f" and {len(problems) - MOST_PROBLEMS} more" if len(problems) > MOST_PROBLEMS else ""
        named = "; ".join(problems[:MOST_PROBLEMS])
        raise BundleError(f"{folder}: {named}{more}; copy the bundle again, or export it again")


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
