"""Lists and tables of images: a text file with one path per line, JSON lines, CSV or Parquet.

A table has a column with the image: a path, absolute or relative to the table's folder. In Parquet, the image
may also be encoded, or a struct of `bytes` and `path` as in Hugging Face datasets. The other columns are
optional (`Columns`). An input row that cannot be read becomes an item with an error, so that it has an output
row.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import OptionError
from .columns import CellError, Columns, list_names, make_item, parse_json, repeated
from .input_files import open_text, translate_input_errors
from .items import Item
from .parquet import import_parquet
from .rows import RowError, replace_surrogates

READ_ROWS = 16  # Parquet rows to read at a time; few, because an encoded image has megabytes
SURVEYED_ROWS = 1000  # rows of JSON lines that are searched for the names of columns
_PARQUET_ERRORS = (OSError, ValueError, NotImplementedError)  # base classes of pyarrow's errors
_START_CHARACTERS = 1 << 16  # in which the end of a line is searched
_BLANK = " \t\r\n"


def read_list(path: Path, prompt: str | None) -> Iterator[Item]:
    """Iterate over the items of a text file: one item per line that is not blank; its id is the line.

    Raises:
        OptionError: the file cannot be read. The other functions of this module raise it, too.
    """
    for _, line in _read_lines(path):
        yield Item(replace_surrogates(line), replace_surrogates(line), prompt, path.parent / line)


def read_jsonl(path: Path, prompt: str | None, columns: Columns) -> Iterator[Item]:
    """Iterate over the items of a JSON lines file: one item per line that is not blank."""
    for number, line in _read_lines(path):
        try:
            cells = _parse_object(line)
        except ValueError as error:
            reason = replace_surrogates(f"line {number} {error}; write one object per line")
            yield Item(f"row-{number}", None, None, RowError("input", reason))
        else:
            yield make_item(cells, number, path.parent, prompt, columns)


def read_csv(path: Path, prompt: str | None, columns: Columns) -> Iterator[Item]:
    """Iterate over the items of a CSV file with a header: one item per row. An empty cell has no value.

    Raises:
        OptionError: the file is damaged, or its header has no column with images.
    """
    with _open_csv(path) as (header, rows):
        require_images(path, header, columns)
        for number, row in enumerate(rows, 1):
            if len(row) == len(header):
                cells = {name: cell or None for name, cell in zip(header, row, strict=True)}
                yield make_item(cells, number, path.parent, prompt, columns)
            else:
                problem = f"row {number} has {len(row)} cells, and the header has {len(header)}"
                yield Item(f"row-{number}", None, None, RowError("input", problem))


def read_parquet(path: Path, prompt: str | None, columns: Columns) -> Iterator[Item]:
    """Iterate over the items of a Parquet file: one item per row.

    Raises:
        OptionError: the file is damaged, or has no column with images.
        ProviderError: pyarrow is not installed.
    """
    number = 0
    with _open_parquet(path) as file:
        present = file.schema_arrow.names
        require_images(path, present, columns)
        used = [name for name in present if name in columns.names]
        try:
            for batch in file.iter_batches(batch_size=READ_ROWS, columns=used):
                for cells in _rows(batch):
                    number += 1
                    yield make_item(cells, number, path.parent, prompt, columns)
        except _PARQUET_ERRORS as error:
            raise OptionError(f"{path}: is damaged after row {number}; download or copy it again") from error


def count_lines(path: Path) -> int:
    """Return the number of items of a list or of JSON lines."""
    return sum(1 for _ in _read_lines(path))


def count_csv_rows(path: Path) -> int:
    """Return the number of items of a CSV file; raise the errors of `read_csv`."""
    with _open_csv(path) as (_, rows):
        return sum(1 for _ in rows)


def count_parquet_rows(path: Path) -> int:
    """Return the number of rows in the footer of a Parquet file; raise the errors of `read_parquet`."""
    with _open_parquet(path) as file:
        return int(file.metadata.num_rows)


def jsonl_columns(path: Path) -> set[str]:
    """Return the keys in the first SURVEYED_ROWS lines."""
    names: set[str] = set()
    for _, line in islice(_read_lines(path), SURVEYED_ROWS):
        try:
            names |= _parse_object(line).keys()
        except ValueError:
            continue  # the row has an error when it is read
    return names


def csv_columns(path: Path) -> set[str]:
    """Return the column names in the header of a CSV file; raise the errors of `read_csv`."""
    with _open_csv(path) as (header, _):
        return set(header)


def parquet_columns(path: Path) -> set[str]:
    """Return the column names of a Parquet file; raise the errors of `read_parquet`."""
    with _open_parquet(path) as file:
        return set(file.schema_arrow.names)


def _read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the number, counted from 1, and the text of each line that is not blank."""
    with open_text(path, newline="") as file:
        start = file.read(_START_CHARACTERS)
    # Programs for classic Mac OS end lines with CR.
    line_end = "\r" if "\r" in start and "\n" not in start else "\n"
    with open_text(path, newline=line_end) as file:
        for number, line in enumerate(file, 1):
            if line.strip(_BLANK):
                yield number, line.rstrip("\r\n")


def _parse_object(line: str) -> dict[str, object]:
    """Return the JSON object of a line; raise ValueError with the problem."""
    try:
        cells = parse_json(line)
    except ValueError as error:
        raise ValueError(f"is not JSON ({' '.join(str(error).split())})") from None
    if not isinstance(cells, dict):
        raise ValueError("is not a JSON object")
    return cells


@contextmanager
def _open_csv(path: Path) -> Iterator[tuple[list[str], Iterator[list[str]]]]:
    """Open a CSV or TSV file. Yield the header and an iterator over the rows that are not blank."""
    with open_text(path, newline="") as file:
        # A strict reader refuses a quote that is never closed, which would hide the rows after it.
        reader = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
        try:
            header = next(reader, [])
            _require_unique(path, header)
            yield header, (row for row in reader if row)
        except csv.Error as error:
            raise OptionError(
                f"{path}: is damaged in or before line {reader.line_num} ({error}); save it again as CSV"
            ) from error


@contextmanager
def _open_parquet(path: Path) -> Iterator[Any]:
    """Open a Parquet file as a `pyarrow.parquet.ParquetFile`."""
    parquet = import_parquet()
    with translate_input_errors(path):
        path.open("rb").close()  # raises PermissionError, which pyarrow would report as a damaged file
    try:
        file = parquet.ParquetFile(path)
    except _PARQUET_ERRORS as error:
        raise OptionError(
            f"{path}: is not a Parquet file or is damaged; download or copy it again"
        ) from error
    with file:
        _require_unique(path, file.schema_arrow.names)
        yield file


def _rows(batch: Any) -> Iterator[dict[str, object]]:
    """Yield the rows of an Arrow batch. A cell that cannot be converted becomes a CellError."""
    try:
        rows: list[dict[str, object]] = batch.to_pylist()
    except (ValueError, OverflowError):  # text that is not UTF-8, a date after the year 9999
        names = batch.schema.names
        rows = [{name: _cell(batch.column(name)[row], name) for name in names} for row in range(len(batch))]
    yield from rows


def _cell(value: Any, name: str) -> object:
    try:
        cell: object = value.as_py()
    except UnicodeDecodeError:
        return CellError(f"`{name}` has bytes that are not UTF-8")
    except (ValueError, OverflowError) as error:
        return CellError(f"`{name}` cannot be read ({' '.join(str(error).split())})")
    return cell


def require_images(path: Path, present: list[str], columns: Columns) -> None:
    """Raise OptionError if no column contains the images."""
    if not set(columns.image) & set(present):
        raise OptionError(
            f"{path}: has no column `{'` or `'.join(columns.image)}`; its columns are: "
            f"{list_names(present)}; name the one with the images with --image-column"
        )


def _require_unique(path: Path, names: list[str]) -> None:
    if twice := repeated(names):
        raise OptionError(f"{path}: has several columns {list_names(twice)}; rename or remove one")
