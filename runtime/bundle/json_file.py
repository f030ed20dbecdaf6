"""Read a JSON file of a bundle into dataclasses. Missing, unknown and mistyped fields are errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import dacite

from ..errors import BundleError

T = TypeVar("T")


def read_json_object(path: Path, max_bytes: int) -> dict[str, Any]:
    """Read a JSON object from a file, and return it with tuples in place of lists.

    Booleans are converted to text. Otherwise a boolean would be accepted in place of an integer, because bool
    is a subclass of int.

    Raises:
        BundleError: the file is missing, larger than `max_bytes`, or does not hold a JSON object.
    """
    try:
        if path.exists() and not path.is_file():
            raise BundleError(f"{path}: not a regular file; export the checkpoint again")
        if path.stat().st_size > max_bytes:
            raise BundleError(f"{path}: larger than {max_bytes} bytes; export the checkpoint again")
        data = _normalized(json.loads(path.read_bytes()))
    except FileNotFoundError:
        raise BundleError(
            f"{path}: no such file; `paligemma-onnx export CHECKPOINT --output {path.parent}` makes a bundle"
        ) from None
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror})") from None
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


def _normalized(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _normalized(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return tuple(_normalized(entry) for entry in value)
    return str(value) if isinstance(value, bool) else value
