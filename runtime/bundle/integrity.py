"""Compare a bundle's files with the sizes and hashes in its manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from ..errors import BundleError
from .json_file import LFS_POINTER, OUT_OF_FILES
from .schema import TENSOR_TABLE, FileSpec, Manifest

MAX_PROBLEMS = 10  # files that one message names


def check_files(folder: Path, manifest: Manifest) -> None:
    """Check the size of every file, and the hashes of graphs, tokenizer and tensor table.

    A graph with a flipped bit may load and compute wrong results, so its hash is checked. Hashing a graph
    takes less time than parsing it. Weight files are not hashed here, because they have gigabytes;
    `check_hashes` also hashes the weight files.

    Raises:
        BundleError: a file is missing, has another size, or is altered; the message names these files.
    """
    small = (*(graph.file for graph in manifest.graphs.all), manifest.tokens.file, TENSOR_TABLE)
    files = manifest.files.items()
    _raise_problems(folder, [file_problem(folder / name, spec, hashed=name in small) for name, spec in files])


def check_hashes(folder: Path, manifest: Manifest, progress: Callable[[str], object]) -> None:
    """Check the size and the hash of every file, including the weight files.

    Args:
        folder: the bundle.
        manifest: manifest of the bundle.
        progress: called with a line of text before each file.

    Raises:
        BundleError: a file is missing, has another size, or is altered; the message names these files.
    """
    check_listed(folder, manifest.files, progress)


def check_listed(folder: Path, files: Mapping[str, FileSpec], progress: Callable[[str], object]) -> None:
    """Check the size and the hash of every listed file.

    Args:
        folder: folder of the files.
        files: expected sizes and hashes, by path in the folder.
        progress: called with a line of text before each file.

    Raises:
        BundleError: a file is missing, has another size, or is altered; the message names these files.
    """
    problems = []
    for name, spec in files.items():
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
    """Return the size of a file, and also its SHA-256 if `hashed` is true.

    Raises:
        OSError: the file cannot be read.
    """
    return FileSpec(path.stat().st_size, sha256(path) if hashed else "")


def file_problem(path: Path, expected: FileSpec, *, hashed: bool) -> str | None:
    """Return a phrase that names the file and its problem, or None if the file has no problem.

    Args:
        path: the file.
        expected: size and hash that the file must have.
        hashed: whether to compare the hash in addition to the size. This reads the whole file.
    """
    try:
        if not path.is_file():
            return f"{path.name} is missing"
        size = path.stat().st_size
        path.open("rb").close()  # onnxruntime's message about a file without permission names another cause
        if size != expected.bytes:
            with path.open("rb") as file:
                if file.read(len(LFS_POINTER)) == LFS_POINTER:
                    return f"{path.name} is a Git LFS pointer (run `git lfs pull`)"
            return f"{path.name} has {size} bytes instead of {expected.bytes}"
        if hashed and sha256(path) != expected.sha256:
            return f"{path.name} is altered (another SHA-256)"
    except OSError as error:
        if error.errno in OUT_OF_FILES:
            raise  # not a problem of the bundle
        advice = ": check its permissions" if isinstance(error, PermissionError) else ""
        return f"{path.name} cannot be read ({error.strerror}{advice})"
    return None


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
