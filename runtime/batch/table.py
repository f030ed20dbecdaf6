"""Lists and tables of images: a text file with one path per line, JSON lines, or Parquet.

The column `image` is a path, absolute or relative to the table's folder. In Parquet, `image` may also be the
encoded image, or a struct of `bytes` and `path` as in Hugging Face datasets. The columns `prompt` and `id`
are optional. An input row that cannot be read becomes an item with an error, so that it has an output row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..errors import OptionError
from .items import Item
from .parquet import import_parquet
from .rows import RowError, replace_surrogates

READ_ROWS = 16  # Parquet rows to read at a time; few, because an encoded image has megabytes


def read_list(path: Path, prompt: str | None) -> Iterator[Item]:
    """Iterate over the items of a text file: one item per line that is not blank; its id is the line."""
    for _, line in _read_lines(path):
        yield Item(replace_surrogates(line), replace_surrogates(line), prompt, path.parent / line)


def read_jsonl(path: Path, prompt: str | None) -> Iterator[Item]:
    """Iterate over the items of a JSON lines file: one item per line that is not blank."""
    for number, line in _read_lines(path):
        problem = "is not a JSON object"
        try:
            cells = json.loads(line)
        except (ValueError, RecursionError) as error:
            cells, problem = None, f"is not JSON ({' '.join(str(error).split())})"
        if isinstance(cells, dict):
            yield _item(cells, number, path.parent, prompt)
        else:
            reason = replace_surrogates(f"line {number} {problem}; write one object per line")
            yield Item(f"row-{number}", None, None, RowError("input", reason))


def read_parquet(path: Path, prompt: str | None) -> Iterator[Item]:
    """Iterate over the items of a Parquet file: one item per row.

    Raises:
        OptionError: the file is damaged or has no column `image`.
        ProviderError: pyarrow is not installed.
    """
    parquet = import_parquet()
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            names = set(file.schema_arrow.names)
            if "image" not in names:
                raise OptionError(f"{path}: has no column `image`; rename the column with the images")
            columns = [name for name in ("image", "prompt", "id") if name in names]
            for batch in file.iter_batches(batch_size=READ_ROWS, columns=columns):
                for cells in batch.to_pylist():
                    number += 1
                    yield _item(cells, number, path.parent, prompt)
    except (OSError, ValueError) as error:  # pyarrow's errors are subclasses of these
        if isinstance(error, OptionError):
            raise
        raise OptionError(f"{path}: is damaged after row {number}; download or copy it again") from error


def count_parquet_rows(path: Path) -> int:
    """Return the number of rows that the footer of a Parquet file states; raises as `read_parquet`."""
    parquet = import_parquet()
    try:
        return int(parquet.read_metadata(path).num_rows)
    except (OSError, ValueError) as error:
        raise OptionError(
            f"{path}: is not a Parquet file or is damaged; download or copy it again"
        ) from error


def _read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the number, counted from 1, and the text of each line that is not blank.

    Bytes that are not UTF-8 become surrogates, because a path may contain any byte except a line feed.
    """
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
        for number, line in enumerate(file, 1):
            if text := line.rstrip("\r\n"):
                yield number, text


def _item(cells: Mapping[str, object], number: int, base: Path, prompt: str | None) -> Item:
    image, name, row_prompt = cells.get("image"), cells.get("id"), cells.get("prompt")
    encoded = None
    if isinstance(image, dict):
        encoded, image = image.get("bytes"), image.get("path")
    elif isinstance(image, bytes):
        encoded, image = image, None
    path = replace_surrogates(image) if isinstance(image, str) else None
    has_id = isinstance(name, str | int) and not isinstance(name, bool)
    item_id = replace_surrogates(str(name)) if has_id else path or f"row-{number}"
    if row_prompt is None:
        row_prompt = prompt
    elif not isinstance(row_prompt, str):
        problem = f"row {number}: `prompt` is {type(row_prompt).__name__}, not text"
        return Item(item_id, path, None, RowError("input", problem))
    if isinstance(encoded, bytes):
        return Item(item_id, path, row_prompt, encoded)
    if isinstance(image, str):
        return Item(item_id, path, row_prompt, base / image)
    problem = f"row {number}: `image` is missing, or neither a path nor an encoded image"
    return Item(item_id, None, row_prompt, RowError("input", problem))
