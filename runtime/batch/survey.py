"""Notes about an input that are printed before a run: unused columns, and prompts from two sources."""

from __future__ import annotations

from dataclasses import fields
from itertools import islice
from pathlib import Path

from ..errors import OptionError
from .columns import NOT_UTF8, Columns, list_names
from .input_files import is_decodable
from .rows import RowError
from .sources import Source, read_items
from .table import csv_columns, jsonl_columns, parquet_columns, require_images

_COLUMN_NAMES = {"jsonl": jsonl_columns, "csv": csv_columns, "parquet": parquet_columns}
_SURVEYED_ITEMS = 100  # items of a tar that are searched for prompts
_METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")  # tables in image folders of Hugging Face
_PRECEDENCE = "takes precedence; --prompt applies to the images without one"


def survey(source: Source) -> list[str]:
    """Return notes for the user: which columns are not used, and which prompts take precedence.

    Raises:
        OptionError: a column that an option names does not exist, or the source cannot be read or decoded.
        ProviderError: pyarrow is not installed.
    """
    names = _COLUMN_NAMES.get(source.kind)
    present = names(source.path) if names else None
    _check_columns(source, present)
    if present and source.kind in ("csv", "parquet"):  # JSON lines may have other keys in each line
        require_images(source.path, sorted(present), source.columns)
    if source.kind in ("jsonl", "csv") and not is_decodable(source.path):
        _check_decoded(source)
    if source.kind == "folder":
        return [
            f"{table} is not read; to take prompts from it, use `--input {table}`"
            for table in metadata_tables(source.path)
        ]
    notes = []
    if source.kind == "tar" and source.prompt is not None:
        prompts = {item.prompt for item in islice(read_items(source), _SURVEYED_ITEMS)}
        if prompts - {source.prompt, None}:
            notes.append(f"{source.path}: a prompt in a .json member {_PRECEDENCE}")
    if present is not None:
        prompt_columns = [f"`{name}`" for name in source.columns.prompt if name in present]
        if source.prompt is not None and prompt_columns:
            notes.append(f"{source.path}: a prompt in column {' or '.join(prompt_columns)} {_PRECEDENCE}")
        for field in fields(Columns):
            both = [f"`{name}`" for name in getattr(source.columns, field.name) if name in present]
            if len(both) > 1:
                notes.append(f"{source.path}: {' takes precedence over '.join(both)} where a row has both")
        if unused := sorted(present - source.columns.names):
            notes.append(f"{source.path}: columns that are not used: {list_names(unused)}")
    return notes


def metadata_tables(folder: Path) -> list[Path]:
    """Return the tables with the metadata of an image folder of Hugging Face."""
    return [folder / name for name in _METADATA if (folder / name).is_file()]


def _check_decoded(source: Source) -> None:
    """Raise OptionError if a prompt or an expected answer is not UTF-8, as in a table saved as Latin-1."""
    for item in read_items(source):
        if isinstance(item.image, RowError) and NOT_UTF8 in item.image.message:
            raise OptionError(f"{source.path}: {item.image.message}")


def _check_columns(source: Source, present: set[str] | None) -> None:
    """Raise OptionError if an option names a column that the source does not have."""
    for field in fields(Columns):
        names = getattr(source.columns, field.name)
        option = f"--{field.name}-column {', '.join(names)}"
        if names == field.default:
            continue
        if present is None and not (source.kind == "tar" and field.name in ("prompt", "suffix")):
            raise OptionError(f"{option}: a {source.kind} of images has no such column; omit the option")
        if present is not None and not present & set(names):
            raise OptionError(
                f"{option}: {source.path} has no such column; its columns are: {list_names(sorted(present))}"
            )
