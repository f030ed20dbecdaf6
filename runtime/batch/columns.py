"""Choose the columns (of a table) or keys (of JSON objects) that a run uses, and convert rows to items."""

from __future__ import annotations

import datetime
import json
import re
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from pathlib import Path

from .items import Item
from .rows import RowError, replace_surrogates

NOT_UTF8 = "has bytes that are not UTF-8"
_UNDECODED = re.compile("[\udc80-\udcff]")  # bytes that are not UTF-8, see `open_text`
MAX_NAMES = 20  # column names in one message
# Accepted types of ids, in addition to text and bytes. A float is written as Python prints it.
_ID_TYPES = int | float | Decimal | uuid.UUID | datetime.date | datetime.time


@dataclass(frozen=True)
class Columns:
    """Accepted names of the columns. If a field lists several, the first with a value in the row is used.

    The data sets of big_vision and Roboflow use `prefix` and `suffix`; the image folders of Hugging Face use
    `file_name`.
    """

    image: tuple[str, ...] = ("image", "file_name")
    prompt: tuple[str, ...] = ("prompt", "prefix")
    id: tuple[str, ...] = ("id",)
    suffix: tuple[str, ...] = ("suffix",)  # the expected answer

    @property
    def names(self) -> frozenset[str]:
        """Accepted names of all columns."""
        return frozenset(name for field in fields(self) for name in getattr(self, field.name))


def list_names(names: Iterable[str]) -> str:
    """Return the names of columns for a message: the first MAX_NAMES of them, or `none`."""
    listed = list(names)
    return ", ".join(listed[:MAX_NAMES]) + ", ..." * (len(listed) > MAX_NAMES) or "none"


def repeated(names: Iterable[str]) -> list[str]:
    """Return the names that occur more than once."""
    return [name for name, count in Counter(names).items() if count > 1]


class CellError(ValueError):
    """A cell cannot be used. Its message becomes part of the error of the row."""


def make_item(
    cells: Mapping[str, object], number: int, base: Path, prompt: str | None, columns: Columns
) -> Item:
    """Return the item of a row; if a cell cannot be used, the item has an error.

    Args:
        cells: the row. The value of a cell that cannot be read is a CellError.
        number: number of the row, counted from 1.
        base: folder of relative paths.
        prompt: prompt for a row without a prompt.
        columns: names of the columns.
    """
    path = suffix = row_prompt = None
    item_id = f"row-{number}"
    encoded: object = None
    try:
        image = _find(cells, columns.image)
        if isinstance(image, dict):
            encoded, image = image.get("bytes"), image.get("path")
        elif isinstance(image, bytes):
            encoded, image = image, None
        if isinstance(image, str):
            item_id = path = replace_surrogates(image)
        row_id = _find_id(cells, columns)
        item_id = item_id if row_id is None else row_id
        row_prompt = find_text(cells, columns.prompt)
        row_prompt = prompt if row_prompt is None else row_prompt
        suffix = find_suffix(cells, columns)
        if isinstance(encoded, bytes):
            return Item(item_id, path, row_prompt, encoded, suffix)
        if isinstance(image, str):
            return Item(item_id, path, row_prompt, base / image, suffix)
        raise CellError(
            f"`{columns.image[0]}` is missing, or neither a path nor an encoded image; "
            f"the row has the columns: {list_names(cells)}"
        )
    except CellError as error:
        problem = RowError("input", replace_surrogates(f"row {number}: {error}"))
        return Item(item_id, path, row_prompt, problem, suffix)


def find_text(cells: Mapping[str, object], names: Iterable[str]) -> str | None:
    """Return the text of the first column that has a value; None if no column has a value.

    Raises:
        CellError: the value is not text, or not UTF-8.
    """
    for name in names:
        value = _value(cells, name)
        if isinstance(value, bytes):
            return _decode(value, name)
        if value is not None and not isinstance(value, str):
            raise CellError(f"`{name}` is {type(value).__name__}, not text")
        if value is not None and _UNDECODED.search(value):
            raise CellError(f"`{name}` {NOT_UTF8}; save the file as UTF-8")
        if value is not None:
            return value
    return None


def find_suffix(cells: Mapping[str, object], columns: Columns) -> str | None:
    """Return the expected answer of a row as valid Unicode, or None; raise the errors of `find_text`."""
    suffix = find_text(cells, columns.suffix)
    return None if suffix is None else replace_surrogates(suffix)


def parse_json(text: str | bytes) -> object:
    """Return a JSON value. Numbers with a fraction keep their digits, as Decimal.

    Raises:
        ValueError: the text is not JSON, is nested too deeply, or an object has a key twice.
    """
    try:
        return json.loads(text, parse_float=Decimal, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    cells = dict(pairs)
    if len(cells) < len(pairs):
        raise ValueError(f"the key {repeated(name for name, _ in pairs)[0]!r} occurs twice")
    return cells


def _find(cells: Mapping[str, object], names: Iterable[str]) -> object:
    return next((value for name in names if (value := _value(cells, name)) is not None), None)


def _find_id(cells: Mapping[str, object], columns: Columns) -> str | None:
    for name in columns.id:
        value = _value(cells, name)
        if isinstance(value, str):
            return replace_surrogates(value)
        if isinstance(value, bytes):
            return _decode(value, name)
        if isinstance(value, bool):
            return json.dumps(value)
        if isinstance(value, float) and value != value:  # noqa: PLR0124  only NaN differs from itself
            raise CellError(f"`{name}` is NaN; write a different id for each row")
        if isinstance(value, _ID_TYPES):
            return str(value)
        if value is not None:
            raise CellError(f"`{name}` is {type(value).__name__}, which cannot be an id")
    return None


def _value(cells: Mapping[str, object], name: str) -> object:
    value = cells.get(name)
    if isinstance(value, CellError):
        raise value
    return value


def _decode(value: bytes, name: str) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise CellError(f"`{name}` {NOT_UTF8}") from None
