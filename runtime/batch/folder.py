"""Pictures in a folder: listed once, in whatever order the file system has, and from then on in that one.

The list is a file, so that neither a folder of millions nor its order has to be in memory, and a folder that
changes while a run is interrupted does not shift what the run counts. A line is a JSON string: names may hold
line feeds, and bytes that are not UTF-8.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from ..atomic_file import write_atomically
from ..errors import OptionError
from .items import Item
from .rows import readable

# What formats the runtime reads are usually called.
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


def write_listing(folder: Path, listing: Path) -> None:
    """List the pictures in a folder and all below it; links to folders are not followed.

    Raises:
        OptionError: a folder cannot be read.
    """
    try:
        with write_atomically(listing, locked=True) as file:
            for path in _pictures(folder):
                file.write(f"{json.dumps(path)}\n".encode("ascii"))
    except PermissionError as error:
        raise OptionError(f"{error.filename}: cannot be read ({error.strerror}); check its owner") from error


def listed_items(folder: Path, listing: Path, prompt: str | None) -> Iterator[Item]:
    """The pictures of a listing in its order; an id is the path from the folder on."""
    with listing.open(encoding="ascii") as lines:
        for line in lines:
            path: str = json.loads(line)
            yield Item(readable(path), readable(path), prompt, folder / path)


def _pictures(folder: Path) -> Iterator[str]:
    waiting = [""]
    while waiting:
        inside = waiting.pop()
        with os.scandir(folder / inside) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(f"{inside}{entry.name}/")
                elif Path(entry.name).suffix.lower() in SUFFIXES:
                    yield f"{inside}{entry.name}"
