"""JSON objects from files nobody vouches for: bounded, UTF-8, no duplicate keys, finite numbers.

Python's parser accepts more than the format allows (NaN, the last of several equal keys) and answers hostile
input with other exceptions than its own; here each such case is a CheckpointError of one line.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import BinaryIO

from .errors import CheckpointError, quote_value

LFS_POINTER = b"version https://git-lfs"  # first bytes of a pointer file (git-lfs specification)


class _NotPlainError(ValueError):
    """Valid for Python's parser and not for us; the message is ours."""


def open_file(path: Path) -> BinaryIO:
    """Open a regular file or a link to one for reading.

    Raises:
        CheckpointError: it is absent, a folder, a pipe or a device (no waiting on those), or unreadable.
    """
    try:
        if not path.exists():
            raise CheckpointError(f"{path}: no such file")
        if not path.is_file():
            raise CheckpointError(f"{path}: not a regular file")
        return path.open("rb")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error


def read_json(path: Path, max_bytes: int) -> dict[str, object]:
    """Read a file of at most `max_bytes` that holds one JSON object.

    Raises:
        CheckpointError: it cannot be read, is larger, or is not such an object.
    """
    with open_file(path) as file:
        try:
            data = file.read(max_bytes + 1)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    if len(data) > max_bytes:
        raise CheckpointError(f"{path}: larger than the {max_bytes} bytes such a file can need")
    refuse_lfs_pointer(data, path)
    return parse_json(data, str(path))


def parse_json(data: bytes, what: str) -> dict[str, object]:
    """Parse one JSON object; `what` names its origin in the message.

    Raises:
        CheckpointError: not UTF-8, not JSON, not an object, a duplicate key, NaN or an infinity, or nested
            too deeply.
    """
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
    except _NotPlainError as error:
        raise CheckpointError(f"{what}: {error}") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise CheckpointError(f"{what}: not valid JSON at {place}") from None
    except UnicodeDecodeError:
        raise CheckpointError(f"{what}: not UTF-8 text") from None
    except RecursionError:
        raise CheckpointError(f"{what}: nested too deeply") from None
    except ValueError:  # an integer of thousands of digits
        raise CheckpointError(f"{what}: holds a number too long to read") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{what}: not a JSON object")
    return value


def refuse_lfs_pointer(data: bytes, path: Path) -> None:
    """Raise CheckpointError where `data` begins a Git LFS pointer instead of the file it stands for."""
    if data.startswith(LFS_POINTER):
        raise CheckpointError(f"{path}: a Git LFS pointer, not the file itself; run `git lfs pull`")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result: dict[str, object] = {}
    for key, value in pairs:
        if key in result:
            raise _NotPlainError(f"the key {quote_value(key)} stands twice in one object")
        result[key] = value
    return result


def _refuse_constant(name: str) -> float:
    raise _NotPlainError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _NotPlainError(f"the number {quote_value(text)} is too large")
    return value
