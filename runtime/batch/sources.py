"""What a batch is about: a folder, a list, a table or a tar, as a stream of items in an order that stays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import OptionError
from .folder import listed_items
from .items import Item
from .table import jsonl_items, lines_of, list_items, parquet_items, parquet_rows
from .webdataset import tar_items, tar_keys

Kind = Literal["folder", "list", "jsonl", "parquet", "tar"]
_KINDS: dict[str, Kind] = {".txt": "list", ".jsonl": "jsonl", ".parquet": "parquet", ".tar": "tar"}


@dataclass(frozen=True)
class Source:
    """Where items come from."""

    path: Path  # absolute
    kind: Kind
    prompt: str | None  # of items that have none of their own
    listing: Path  # of a folder: what is in it


def kind_of(path: Path) -> Kind:
    """What kind of input a path is.

    Raises:
        OptionError: there is nothing, or nothing known by that suffix.
    """
    if path.is_dir():
        return "folder"
    if not path.is_file():
        raise OptionError(f"{path}: does not exist, or is no file or folder; check --input")
    kind = _KINDS.get(path.suffix.lower())
    if kind is None:
        raise OptionError(
            f"{path}: is neither a folder nor a file named .txt (paths), .jsonl, .parquet or .tar; "
            "for a few pictures use `generate`"
        )
    return kind


def items_of(source: Source) -> Iterator[Item]:
    """The items of a source; the same ones in the same order each time. Raises OptionError, ProviderError."""
    match source.kind:
        case "folder":
            return listed_items(source.path, source.listing, source.prompt)
        case "list":
            return list_items(source.path, source.prompt)
        case "jsonl":
            return jsonl_items(source.path, source.prompt)
        case "parquet":
            return parquet_items(source.path, source.prompt)
        case "tar":
            return tar_items(source.path, source.prompt)


def count_items(source: Source) -> int:
    """How many there are, read as cheaply as the source allows. Raises OptionError, ProviderError."""
    match source.kind:
        case "folder":
            with source.listing.open("rb") as lines:
                return sum(1 for _ in lines)
        case "list" | "jsonl":
            return sum(1 for _ in lines_of(source.path))
        case "parquet":
            return parquet_rows(source.path)
        case "tar":
            return tar_keys(source.path)
