"""Sources of inputs. A folder, list, table or tar is read as a stream of items in a fixed order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import OptionError
from .folder import read_listing
from .items import Item
from .table import count_parquet_rows, read_jsonl, read_list, read_parquet
from .webdataset import count_tar_items, read_tar

Kind = Literal["folder", "list", "jsonl", "parquet", "tar"]
_KINDS: dict[str, Kind] = {".txt": "list", ".jsonl": "jsonl", ".parquet": "parquet", ".tar": "tar"}
_READERS = {"list": read_list, "jsonl": read_jsonl, "parquet": read_parquet, "tar": read_tar}


@dataclass(frozen=True)
class Source:
    """The input of a run."""

    path: Path  # absolute
    kind: Kind
    prompt: str | None  # prompt of the items that have none
    listing: Path  # file that lists the images of a folder


def source_kind(path: Path) -> Kind:
    """Return the kind of an input, from its suffix.

    Raises:
        OptionError: the path does not exist or its suffix is unknown.
    """
    if path.is_dir():
        return "folder"
    if not path.is_file():
        raise OptionError(f"{path}: does not exist or is not a file or folder; check --input")
    kind = _KINDS.get(path.suffix.lower())
    if kind is None:
        raise OptionError(
            f"{path}: is neither a folder nor a .txt (list of paths), .jsonl, .parquet or .tar file; "
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
    return _READERS[source.kind](source.path, source.prompt)


def count_items(source: Source) -> int:
    """Return the number of items; read as little of the source as possible. Raises as `read_items`."""
    if source.kind == "parquet":
        return count_parquet_rows(source.path)
    if source.kind == "tar":
        return count_tar_items(source.path)
    return sum(1 for _ in read_items(source))
