"""Compare a bundle's files with the sizes and hashes of its manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from ..errors import BundleError
from .schema import TENSOR_TABLE, FileSpec, Manifest

MAX_PROBLEMS = 10  # named in one message


def check_files(folder: Path, manifest: Manifest) -> None:
    """Check that every file has its size, and that graphs, tokenizer and tensor table have their hashes.

    A graph with a flipped bit may load and compute something else. Hashing these files takes less time than
    parsing them. Weight files have gigabytes; `check_hashes` reads them, too.

    Raises:
        BundleError: a file is missing, of another size, or altered; the message names each one.
    """
    small = (*(graph.file for graph in manifest.graphs.all), manifest.tokens.file, TENSOR_TABLE)
    files = manifest.files.items()
    _raise_problems(folder, [file_problem(folder / name, spec, hashed=name in small) for name, spec in files])


def check_hashes(folder: Path, manifest: Manifest, progress: Callable[[str], object]) -> None:
    """Check the size and the hash of every file, weights included.

    Args:
        folder: the bundle.
        manifest: the bundle's.
        progress: called with a line of text before each file.

    Raises:
        BundleError: a file is missing, of another size, or altered; the message names each one.
    """
    problems = []
    for name, spec in manifest.files.items():
        progress(f"checking {name}")
        problems.append(file_problem(folder / name, spec, hashed=True))
    _raise_problems(folder, problems)


def _raise_problems(folder: Path, results: list[str | None]) -> None:
    problems = [problem for problem in results if problem is not None]
    if problems:
        more = f" and {len(problems) - MAX_PROBLEMS} more" if len(problems) > MAX_PROBLEMS else ""
        named = "; ".join(problems[:MAX_PROBLEMS])
        raise BundleError(f"{folder}: {named}{more}; copy the bundle again, or export it again")


def read_file_spec(path: Path, *, hashed: bool) -> FileSpec:
    """Return the size and, if `hashed`, the SHA-256 of a file.

    Raises:
        OSError: the file cannot be read.
    """
    return FileSpec(path.stat().st_size, sha256(path) if hashed else "")


def file_problem(path: Path, expected: FileSpec, *, hashed: bool) -> str | None:
    """Return a phrase that names the file and what is wrong with it, or None.

    Args:
        path: the file.
        expected: size and hash that it must have.
        hashed: whether to compare the hash, too, which reads the whole file.
    """
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
    """Return the SHA-256 of a file as hexadecimal digits.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
