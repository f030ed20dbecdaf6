"""Is a bundle whole? Sizes, graphs and tokenizer at every load, every byte on request."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from .errors import BundleError
from .graphs import GraphRunner
from .manifest import Manifest, read_manifest
from .session import place

MOST_PROBLEMS = 10  # named in one message


def check_files(folder: Path, manifest: Manifest) -> None:
    """Every file is there and as long as the manifest says, and those but the weights are byte by byte.

    A graph with one bit changed may well load, and answer something else. Reading graphs and tokenizer takes
    less time than parsing them; the weights are gigabytes and wait for `verify`.

    Raises:
        BundleError: naming each file that is missing, of another size, or altered.
    """
    graphs = manifest.graphs
    small = (graphs.vision_encoder.file, graphs.prefill.file, graphs.decode.file, manifest.tokens.file)
    _raise(folder, [_problem(folder, manifest, name, hashed=name in small) for name in manifest.files])


def verify(folder: Path, progress: Callable[[str], object]) -> Manifest:
    """Every byte is the exporter's, and every graph has the inputs and outputs the manifest declares.

    Raises:
        BundleError: naming each file that is missing, of another size, or altered.
    """
    manifest = read_manifest(folder)
    problems = []
    for name in manifest.files:
        progress(name)
        problems.append(_problem(folder, manifest, name, hashed=True))
    _raise(folder, problems)
    progress("graphs")
    GraphRunner.open(folder, manifest, place("cpu", None))
    return manifest


def _problem(folder: Path, manifest: Manifest, name: str, *, hashed: bool) -> str | None:
    path, expected = folder / name, manifest.files[name]
    try:
        if not path.is_file():
            return f"{name} is missing"
        size = path.stat().st_size
        if size != expected.bytes:
            return f"{name} has {size} bytes instead of {expected.bytes}"
        if hashed and _sha256(path) != expected.sha256:
            return f"{name} is altered (another SHA-256)"
    except OSError as error:
        return f"{name} cannot be read ({error.strerror})"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _raise(folder: Path, found: list[str | None]) -> None:
    problems = [problem for problem in found if problem is not None]
    if problems:
        more = f" and {len(problems) - MOST_PROBLEMS} more" if len(problems) > MOST_PROBLEMS else ""
        named = "; ".join(problems[:MOST_PROBLEMS])
        raise BundleError(f"{folder}: {named}{more}; copy the bundle again, or export it again")
