"""Read a JSON file of a bundle into dataclasses. Missing, unknown and mistyped fields are errors."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any, TypeVar

import dacite

from ..errors import BundleError

OUT_OF_FILES = (errno.EMFILE, errno.ENFILE)  # the process or the system has too many open files
LFS_POINTER = b"version https://git-lfs"  # first bytes of a pointer file (git-lfs specification)
T = TypeVar("T")


def read_json_object(path: Path, max_bytes: int) -> dict[str, Any]:
    """Read a JSON object from a file, and return it with tuples in place of lists.

    Booleans are converted to text. Otherwise a boolean would be accepted in place of an integer, because bool
    is a subclass of int.

    Raises:
        BundleError: the file is missing, larger than `max_bytes`, or does not hold a JSON object; or an
            integer does not fit into 64 bits.
        OSError: too many files are open.
    """
    if not _is_possible(path):
        raise BundleError(f"{str(path)!a}: not a possible file name; check the path")
    try:
        if path.exists() and not path.is_file():
            raise BundleError(f"{path}: not a regular file; export the checkpoint again")
        if path.stat().st_size > max_bytes:
            raise BundleError(f"{path}: larger than {max_bytes} bytes; export the checkpoint again")
        content = path.read_bytes()
        if content.startswith(LFS_POINTER):
            raise BundleError(f"{path}: a Git LFS pointer, not the file itself; run `git lfs pull`")
        data = _normalized(json.loads(content, parse_int=_int64))
    except FileNotFoundError:
        raise BundleError(
            f"{path}: no such file; `paligemma-onnx export CHECKPOINT --output {path.parent}` makes a bundle"
        ) from None
    except OSError as error:
        if error.errno in OUT_OF_FILES:
            raise  # not a problem of the bundle
        remedy = "export the checkpoint again"
        if error.errno == errno.ELOOP:
            remedy = "give the folder itself, not a link"
        elif isinstance(error, PermissionError):
            remedy = "check the permissions of the file and of its folders"
        raise BundleError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    except OverflowError:
        raise BundleError(
            f"{path}: holds a number that does not fit into 64 bits; export the checkpoint again"
        ) from None
    except (ValueError, RecursionError):
        raise BundleError(f"{path}: not valid JSON; export the checkpoint again") from None
    if not isinstance(data, dict):
        raise BundleError(f"{path}: not a JSON object; export the checkpoint again")
    return data


def build(schema: type[T], data: dict[str, Any]) -> T:
    """Return an instance of the dataclass `schema` with the values of JSON data.

    Raises:
        ValueError: a field is missing, unknown or of a wrong type; the message names the field.
    """
    try:
        return dacite.from_dict(schema, data, dacite.Config(strict=True))
    except dacite.UnexpectedDataError as error:
        raise ValueError(f"has an unknown field, {sorted(map(ascii, error.keys))[0]}") from None
    except dacite.DaciteFieldError as error:
        missing = isinstance(error, dacite.MissingValueError)
        raise ValueError(f"{error.field_path} is {'missing' if missing else 'of a wrong type'}") from None


def _is_possible(path: Path) -> bool:
    try:
        return b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:  # a lone surrogate
        return False


def _int64(text: str) -> int:
    number = int(text)
    if not -(1 << 63) <= number < 1 << 63:
        raise OverflowError
    return number


def _normalized(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _normalized(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return tuple(_normalized(entry) for entry in value)
    return str(value) if isinstance(value, bool) else value
