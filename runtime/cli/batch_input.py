"""Options of `batch` that describe the input, and the `Source` that the command receives in their place."""

from __future__ import annotations

import os
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import Any

import click

from ..batch.columns import Columns
from ..batch.run_record import LISTING
from ..batch.sources import Source, source_kind
from ..batch.survey import metadata_tables
from ..errors import OptionError
from .options import add_options
from .parameters import Command, PathType, TextType

_INPUT = (
    click.option(
        "--input",
        metavar="PATH",
        type=PathType(),
        required=True,
        help="Images: a folder, a list of paths (.txt), a table (.jsonl, .csv, .parquet) or a WebDataset "
        "(.tar).",
    ),
    click.option(
        "--output",
        metavar="FOLDER",
        type=PathType(),
        required=True,
        help="Folder for the output files.",
    ),
    click.option(
        "--prompt",
        metavar="TEXT",
        type=TextType(),
        help="Prompt for each image without a prompt; required for a folder or list.",
    ),
    click.option(
        "--image-column",
        metavar="NAME",
        show_default="image or file_name",
        help="Column of a table with the images.",
    ),
    click.option(
        "--prompt-column",
        metavar="NAME",
        show_default="prompt or prefix",
        help="Column of a table with the prompts. A prompt there takes precedence over --prompt.",
    ),
    click.option(
        "--id-column", metavar="NAME", show_default="id", help="Column of a table with the ids of the rows."
    ),
    click.option(
        "--suffix-column",
        metavar="NAME",
        show_default="suffix",
        help="Column of a table with the expected answers, to score answers.",
    ),
)


def input_options(command: Command) -> Command:
    """Add the options of the input to a command, which receives them as `source` and `output`.

    The command raises OptionError if the input does not exist, or if --prompt is missing and the input is of
    a kind that contains no prompts.
    """

    @wraps(command)
    def with_source(*, input: Path, output: Path, prompt: str | None, **arguments: Any) -> object:
        chosen = {field.name: arguments.pop(f"{field.name}_column") for field in fields(Columns)}
        columns = Columns(**{role: (name,) for role, name in chosen.items() if name is not None})
        output = _absolute(output)
        path = _absolute(input)
        source = Source(path, source_kind(path), prompt, output / LISTING, columns)
        if prompt is None and source.kind in ("folder", "list"):
            tables = metadata_tables(path) if source.kind == "folder" else []
            instead = "".join(f", or use `--input {table}`" for table in tables)
            raise OptionError(f"{input}: a {source.kind} of images has no prompts; give --prompt{instead}")
        return command(source=source, output=output, **arguments)

    return add_options(with_source, *_INPUT)


def _absolute(path: Path) -> Path:
    """Return an absolute path in which symbolic links stay; `Path.resolve` would follow them."""
    try:
        return Path(os.path.abspath(path))  # noqa: PTH100
    except FileNotFoundError as error:
        raise OptionError(f"{path}: the working folder was deleted; give an absolute path") from error
