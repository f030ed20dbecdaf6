"""Strict reading of JSON files.

A file must have a bounded size, UTF-8 text, no duplicate keys and only finite numbers; its keys are checked.

Python's parser accepts input that the format forbids: it accepts NaN, and of several equal keys it uses the
last. Damaged or hostile input makes the parser raise several kinds of exception. The functions of this module
raise a CheckpointError for all such input; the message is one line that names the file and the key.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from .errors import CheckpointError, quote_names, quote_value

LFS_POINTER = b"version https://git-lfs"  # first bytes of a pointer file (git-lfs specification)


def read_start(path: Path, max_bytes: int) -> bytes:
    """Return the first `max_bytes` bytes of a regular file, or of a link to a regular file.

    Raises:
        CheckpointError: the file is absent or unreadable; it is a folder; it is a pipe or a device, because
            reading a pipe or a device could block; or it is a Git LFS pointer instead of the real file.
    """
    try:
        if not path.exists():
            raise CheckpointError(f"{path}: no such file")
        if not path.is_file():
            raise CheckpointError(f"{path}: not a regular file")
        with path.open("rb") as file:
            data = file.read(max_bytes)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    if data.startswith(LFS_POINTER):
        raise CheckpointError(f"{path}: a Git LFS pointer, not the file itself; run `git lfs pull`")
    return data


def read_json(path: Path, max_bytes: int) -> dict[str, object]:
    """Return the JSON object of a file that has at most `max_bytes` bytes.

    Raises:
        CheckpointError: the file cannot be read, is larger than `max_bytes`, is not UTF-8, is not JSON, is
            not an object, or holds a duplicate key, NaN, an infinity, an overlong integer or too deep
            nesting.
    """
    data = read_start(path, max_bytes + 1)
    if len(data) > max_bytes:
        raise CheckpointError(f"{path}: larger than {max_bytes} bytes, which no valid file needs")
    try:
        content = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_refuse_duplicates,
            parse_constant=_parse_finite,
            parse_float=_parse_finite,
        )
    except json.JSONDecodeError as error:
        problem = f"not valid JSON at line {error.lineno}, column {error.colno}"
    except UnicodeDecodeError:
        problem = "not UTF-8 text"
    except CheckpointError as error:
        problem = str(error)
    except RecursionError:
        problem = "nested too deeply"
    except ValueError:  # int() refuses thousands of digits
        problem = "holds an integer with too many digits"
    else:
        if isinstance(content, dict):
            return content
        problem = "not a JSON object"
    raise CheckpointError(f"{path}: {problem}")


def _refuse_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result: dict[str, object] = {}
    for key, value in pairs:
        if key in result:
            raise CheckpointError(f"the key {quote_value(key)} occurs twice in one object")
        result[key] = value
    return result


def _parse_finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise CheckpointError(f"the number {quote_value(text)} is not finite")
    return value


@dataclass(frozen=True)
class Section:
    """One object of a JSON file. The methods raise CheckpointError for values that they do not accept."""

    path: Path
    prefix: str  # dotted path of this object inside the file: "" or "text_config."
    values: Mapping[str, object]

    def error(self, key: str, problem: str) -> CheckpointError:
        """Return the exception that names the file, the key and the problem."""
        return CheckpointError(f"{self.path}: {self.prefix}{key} {problem}")

    def get_section(self, key: str) -> Section:
        """Return the object stored under a required key."""
        value = self.values.get(key)
        if not isinstance(value, dict):
            raise self.error(key, "must be an object" if key in self.values else "is missing")
        return Section(self.path, f"{self.prefix}{key}.", value)

    def get_integer(self, key: str, default: int | None, low: int, high: int) -> int:
        """Return an integer from low to high, or the default if the key is absent.

        If the default is None, an absent key raises CheckpointError.
        """
        value = self.values.get(key, default)
        if value is None and key not in self.values:
            raise self.error(key, "is missing")
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.error(key, f"is {quote_value(value)}; it must be an integer from {low} to {high}")
        return value

    def get_positive(self, key: str, default: float, high: float) -> float:
        """Return a number above 0 and at most `high`. An integer in the file is returned as a float."""
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= high:
            raise self.error(key, f"is {quote_value(value)}; it must be above 0 and at most {high:g}")
        return float(value)

    def get_positive_or_null(self, key: str, default: float, high: float) -> float | None:
        """Return None if the value is null; otherwise return the result of `get_positive`."""
        if key in self.values and self.values[key] is None:
            return None
        return self.get_positive(key, default, high)

    def check_values(self, accepted: Mapping[str, tuple[object, ...]]) -> None:
        """Raise CheckpointError if a key of `accepted` has another value than those listed for the key.

        An absent key is accepted.
        """
        for key, choices in accepted.items():
            if key in self.values and not any(_is_same(self.values[key], choice) for choice in choices):
                implemented = " or ".join(quote_value(choice) for choice in choices)
                raise self.error(
                    key, f"is {quote_value(self.values[key])}; only {implemented} is implemented"
                )

    def find_unknown(self, known: Collection[str]) -> dict[str, object]:
        """Return the unknown keys that have a value and no leading underscore, with their values.

        transformers uses keys with a leading underscore for internal notes.
        """
        return {
            key: value
            for key, value in self.values.items()
            if key not in known and value is not None and not key.startswith("_")
        }

    def refuse_unknown(self, known: Collection[str], *, accept_off: bool) -> None:
        """Raise CheckpointError if a key is unknown.

        With `accept_off`, an unknown key is accepted if its value leaves a setting off (`asks_for_nothing`).
        """
        found = self.find_unknown(known).items()
        unknown = [key for key, value in found if not (accept_off and asks_for_nothing(value))]
        if unknown:
            where = self.prefix.rstrip(".") or "the file"
            raise CheckpointError(
                f"{self.path}: {where} has keys that are not understood: {quote_names(unknown)}; "
                "remove them if they do not change what the model computes"
            )


def asks_for_nothing(value: object) -> bool:
    """Return whether a value leaves a setting off: null, false, or an empty text, list or object."""
    return value is None or value is False or value in ("", [], {})


def _is_same(value: object, choice: object) -> bool:
    """Return whether two values are equal and have the same type. For example, 1, 1.0 and true differ."""
    return type(value) is type(choice) and value == choice
