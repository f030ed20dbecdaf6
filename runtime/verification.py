"""Is a bundle whole? Sizes at every load, every byte on request."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from .errors import BundleError
from .graphs import GraphRunner
from .manifest import Manifest, read_manifest
from .session import place

CHUNK = 8 << 20  # bytes read at once
MOST_PROBLEMS = 10  # named in one message


def check_sizes(folder: Path, manifest: Manifest) -> None:
    """Every file is there and as long as the manifest says; costs no reading.

    Raises:
        BundleError: naming what is not.
    """
    _raise(folder, [problem for name in manifest.files if (problem := _size_problem(folder, manifest, name))])


def verify(folder: Path, progress: Callable[[str], object]) -> Manifest:
    """Every byte is the exporter's, and every graph has the inputs and outputs the manifest declares.

    Raises:
        BundleError: naming each file that is missing, of another size, or altered.
    """
    manifest = read_manifest(folder)
    problems = []
    for name, spec in manifest.files.items():
        progress(name)
        problem = _size_problem(folder, manifest, name)
        if problem is None and _sha256(folder / name) != spec.sha256:
            problem = f"{name} is altered (another SHA-256)"
        if problem is not None:
            problems.append(problem)
    _raise(folder, problems)
    progress("graphs")
    GraphRunner.open(folder, manifest, place("cpu", None))
    return manifest


def _size_problem(folder: Path, manifest: Manifest, name: str) -> str | None:
    path, expected = folder / name, manifest.files[name].bytes
    if not path.is_file():
        return f"{name} is missing"
    size = path.stat().st_size
    return None if size == expected else f"{name} has {size} bytes instead of {expected}"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror})") from None
    return digest.hexdigest()


def _raise(folder: Path, problems: list[str]) -> None:
    if problems:
        more = f" and {len(problems) - MOST_PROBLEMS} more" if len(problems) > MOST_PROBLEMS else ""
        named = "; ".join(problems[:MOST_PROBLEMS])
        raise BundleError(f"{folder}: {named}{more}; copy the bundle again, or export it again")
