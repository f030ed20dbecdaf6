"""Lists and tables of pictures: a path a line, JSON a line, or Parquet.

Columns: `image` is a path from the table's folder on, or an absolute one; in Parquet it may be the encoded
picture or a struct of `bytes` and `path`, as Hugging Face datasets store it. `prompt` and `id` may be left
out. A row that cannot be read is an item all the same, so that it gets its row in the output.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..errors import OptionError
from .items import Item
from .parquet import parquet
from .rows import RowError, readable

PARQUET_ROWS = 16  # read at a time: encoded pictures are megabytes


def list_items(path: Path, prompt: str | None) -> Iterator[Item]:
    """One item a line that is not blank; an id is the line."""
    for _, line in lines_of(path):
        yield Item(readable(line), readable(line), prompt, path.parent / line)


def jsonl_items(path: Path, prompt: str | None) -> Iterator[Item]:
    """One item a line that is not blank."""
    for number, line in lines_of(path):
        try:
            cells = json.loads(line)
        except (ValueError, RecursionError) as error:
            why = f"line {number} is not JSON ({' '.join(str(error).split())}); write one object a line"
            yield _unreadable(number, why)
            continue
        if isinstance(cells, dict):
            yield _item(cells, number, path.parent, prompt)
        else:
            yield _unreadable(number, f"line {number} is no JSON object; write one object a line")


def parquet_items(path: Path, prompt: str | None) -> Iterator[Item]:
    """One item a row.

    Raises:
        OptionError: the file is damaged or has no column `image`.
        ProviderError: pyarrow is not installed.
    """
    arrow = parquet()
    number = 0
    try:
        with arrow.ParquetFile(path) as file:
            there = set(file.schema_arrow.names)
            if "image" not in there:
                raise OptionError(f"{path}: has no column `image`; name the column with the pictures so")
            columns = [name for name in ("image", "prompt", "id") if name in there]
            for batch in file.iter_batches(batch_size=PARQUET_ROWS, columns=columns):
                for cells in batch.to_pylist():
                    number += 1
                    yield _item(cells, number, path.parent, prompt)
    except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors and OSErrors
        if isinstance(error, OptionError):
            raise
        raise OptionError(f"{path}: is damaged behind row {number}; fetch it again") from error


def parquet_rows(path: Path) -> int:
    """How many rows a Parquet file has, by its footer; raises as `parquet_items`."""
    arrow = parquet()
    try:
        return int(arrow.read_metadata(path).num_rows)
    except (OSError, ValueError) as error:
        raise OptionError(f"{path}: is no Parquet file, or a damaged one; fetch it again") from error


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their numbers from 1 on; a path may hold any byte but a line feed."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
        for number, line in enumerate(file, 1):
            if text := line.rstrip("\r\n"):
                yield number, text


def _item(cells: Mapping[str, object], number: int, base: Path, prompt: str | None) -> Item:
    image, name, own = cells.get("image"), cells.get("id"), cells.get("prompt")
    encoded = None
    if isinstance(image, dict):
        encoded, image = image.get("bytes"), image.get("path")
    elif isinstance(image, bytes):
        encoded, image = image, None
    path = readable(image) if isinstance(image, str) else None
    named = isinstance(name, str | int) and not isinstance(name, bool)
    item_id = readable(str(name)) if named else path or f"row-{number}"
    if own is not None and not isinstance(own, str):
        fault = RowError("input", f"row {number}: `prompt` is {type(own).__name__}, not text")
        return Item(item_id, path, None, fault)
    asked = prompt if own is None else own
    if isinstance(encoded, bytes):
        return Item(item_id, path, asked, encoded)
    if isinstance(image, str):
        return Item(item_id, path, asked, base / image)
    fault = RowError("input", f"row {number}: `image` is missing, or neither a path nor an encoded picture")
    return Item(item_id, None, asked, fault)


def _unreadable(number: int, why: str) -> Item:
    return Item(f"row-{number}", None, None, RowError("input", readable(why)))
