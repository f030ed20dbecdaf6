"""Images in a folder: listed once, in the order of the file system, and always read in that order.

The list is a file for two reasons: the names of millions of images need no memory, and the positions of the
inputs stay the same if the folder changes while a run is interrupted. Each line of the file is a JSON string,
because names may contain line feeds and bytes that are not UTF-8.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from ..atomic_file import write_atomically
from ..errors import OptionError
from .items import Item
from .rows import replace_surrogates

# Common file name suffixes of the formats that the runtime reads.
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


def write_listing(folder: Path, listing: Path) -> None:
    """List the images in a folder and its subfolders; links to folders are not followed.

    Raises:
        OptionError: a folder cannot be read.
    """
    try:
        with write_atomically(listing, locked=True) as file:
            for path in _find_images(folder):
                file.write(f"{json.dumps(path)}\n".encode("ascii"))
    except PermissionError as error:
        raise OptionError(
            f"{error.filename}: cannot be read ({error.strerror}); check its permissions"
        ) from error


def read_listing(folder: Path, listing: Path, prompt: str | None) -> Iterator[Item]:
    """Iterate over the images of a listing in the order of its lines.

    The id of an image is its path relative to the folder.
    """
    with listing.open(encoding="ascii") as lines:
        for line in lines:
            path: str = json.loads(line)
            yield Item(replace_surrogates(path), replace_surrogates(path), prompt, folder / path)


def _find_images(folder: Path) -> Iterator[str]:
    pending = [""]
    while pending:
        parent = pending.pop()
        with os.scandir(folder / parent) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(f"{parent}{entry.name}/")
                elif Path(entry.name).suffix.lower() in SUFFIXES:
                    yield f"{parent}{entry.name}"
