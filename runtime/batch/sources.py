"""Sources of inputs. A folder, list, table or tar is read as a stream of items in a fixed order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..errors import OptionError
from .columns import Columns
from .folder import read_listing
from .input_files import translate_input_errors
from .items import Item
from .state_file import REMEDY
from .table import (
    count_csv_rows,
    count_lines,
    count_parquet_rows,
    read_csv,
    read_jsonl,
    read_list,
    read_parquet,
)
from .webdataset import count_tar_items, read_tar

Kind = Literal["folder", "list", "jsonl", "csv", "parquet", "tar"]
_KINDS: dict[str, Kind] = {
    ".txt": "list",
    ".jsonl": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".tar": "tar",
}
_READERS = {"jsonl": read_jsonl, "csv": read_csv, "parquet": read_parquet, "tar": read_tar}
_COUNTERS = {
    "list": count_lines,
    "jsonl": count_lines,
    "csv": count_csv_rows,
    "parquet": count_parquet_rows,
    "tar": count_tar_items,
}
_CHANGED_REMEDY = "restore it, or start over with --force"


@dataclass(frozen=True)
class Source:
    """The input of a run."""

    path: Path  # absolute
    kind: Kind
    prompt: str | None  # prompt of the items that have none
    listing: Path  # file that lists the images of a folder
    columns: Columns = field(default_factory=Columns)


@dataclass(frozen=True)
class Snapshot:
    """Facts about a source when its items were counted, which show whether it changes during a run."""

    rows: int
    size: int | None  # bytes; None for a folder, whose listing does not change
    modified: int | None  # ns since 1970; None for a folder


def source_kind(path: Path) -> Kind:
    """Return the kind of an input, from its suffix.

    Raises:
        OptionError: the path does not exist or its suffix is unknown.
    """
    with translate_input_errors(path):
        if path.is_dir():
            return "folder"
        is_file = path.is_file()
    if not is_file:
        raise OptionError(f"{path}: does not exist or is not a file or folder; check --input")
    kind = _KINDS.get(path.suffix.lower())
    if kind is None:
        raise OptionError(
            f"{path}: is neither a folder nor a .txt (list of paths), .jsonl, .csv, .parquet or .tar file; "
            "use `generate` for a few images"
        )
    return kind


def read_items(source: Source) -> Iterator[Item]:
    """Iterate over the items of a source, in the same order each time.

    Raises:
        OptionError: the source cannot be read or is damaged.
        ProviderError: pyarrow is not installed.
    """
    if source.kind == "folder":
        return read_listing(source.path, source.listing, source.prompt)
    if source.kind == "list":
        return read_list(source.path, source.prompt)
    return _READERS[source.kind](source.path, source.prompt, source.columns)


def read_counted_items(source: Source, snapshot: Snapshot) -> Iterator[Item]:
    """Iterate over the items of a source, as `read_items`, and compare their number with the snapshot.

    Raises:
        OptionError: as in `read_items`, or the number of items differs; the latter is raised after the items
            that the snapshot counts.
    """
    number = 0
    for number, item in enumerate(read_items(source), 1):
        if number > snapshot.rows:
            break
        yield item
    if number != snapshot.rows:
        held = f"more than {snapshot.rows:,}" if number > snapshot.rows else f"{number:,}"
        listed = source.kind == "folder"
        path, remedy = (source.listing, REMEDY) if listed else (source.path, _CHANGED_REMEDY)
        raise OptionError(
            f"{path}: has {held} inputs, but {snapshot.rows:,} were counted at the start, so it was changed; "
            f"{remedy}"
        )
    check_unchanged(source, snapshot)


def check_unchanged(source: Source, snapshot: Snapshot) -> None:
    """Raise OptionError if the size or the modification time of a source is not that of the snapshot."""
    if input_facts(source.path) != (snapshot.size, snapshot.modified):
        raise OptionError(f"{source.path}: was changed during the run; {_CHANGED_REMEDY}")


def input_facts(path: Path) -> tuple[int | None, int | None]:
    """Return the size and the modification time of a file, which serve to detect changes.

    Both are None for a folder, because a folder is listed instead.

    Raises:
        OptionError: the file cannot be read.
    """
    with translate_input_errors(path):
        if path.is_dir():
            return None, None
        facts = path.stat()
    return facts.st_size, facts.st_mtime_ns


def count_items(source: Source) -> int:
    """Return the number of items; read as little as possible. Raise the errors of `read_items`."""
    if source.kind == "folder":
        return sum(1 for _ in read_items(source))
    return _COUNTERS[source.kind](source.path)
