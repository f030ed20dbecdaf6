"""Images in a folder: listed once, in the order of the file system, and always read in that order.

The list is a file for two reasons: the names of millions of images need no memory, and the positions of the
inputs stay the same if the folder changes while a run is interrupted. Each line of the file is a JSON string,
because names may contain line feeds and bytes that are not UTF-8.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePath

from ..atomic_file import write_atomically
from ..errors import OptionError
from .input_files import translate_input_errors
from .items import Item
from .rows import replace_surrogates
from .state_file import REMEDY, translate_output_errors

# Common file name suffixes of the formats that the runtime reads.
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
_COUNTED_KINDS = 100  # kinds of files that are not images; a folder may have millions of different suffixes
_NAMED_KINDS = 5  # kinds that one note names
_SYSTEM_FILES = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})


def write_listing(folder: Path, listing: Path) -> list[str]:
    """List the images in a folder and its subfolders, and return notes about what is not listed.

    Links to folders are not followed. Files that an operating system adds are not listed.

    Raises:
        OptionError: a folder cannot be read.
    """
    skipped: Counter[str] = Counter()
    with write_atomically(listing, locked=True) as file:
        for path in _find_images(folder, skipped):
            file.write(f"{json.dumps(path)}\n".encode("ascii"))
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in skipped.most_common(_NAMED_KINDS))
    return [f"{folder}: not listed: {kinds}{', ...' * (len(skipped) > _NAMED_KINDS)}"] if skipped else []


def read_listing(folder: Path, listing: Path, prompt: str | None) -> Iterator[Item]:
    """Iterate over the images of a listing in the order of its lines.

    The id of an image is its path relative to the folder.

    Raises:
        OptionError: the listing is missing or damaged.
    """
    with translate_output_errors(listing), listing.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                path = json.loads(line)
            except ValueError:
                path = None
            if not isinstance(path, str) or not line.endswith(b"\n"):
                raise OptionError(f"{listing}: line {number} is damaged; {REMEDY}")
            yield Item(replace_surrogates(path), replace_surrogates(path), prompt, folder / path)


def is_system_file(path: PurePath) -> bool:
    """Return whether a path is a file that an operating system adds to folders and archives.

    macOS stores the metadata of `photo.png` as `._photo.png` or below `__MACOSX`.
    """
    return "__MACOSX" in path.parts or path.name.startswith("._") or path.name in _SYSTEM_FILES


def _find_images(folder: Path, skipped: Counter[str]) -> Iterator[str]:
    """Yield the paths of the images below a folder, and count all other entries by kind in `skipped`."""
    pending = [""]
    while pending:
        parent = pending.pop()
        with translate_input_errors(folder / parent), os.scandir(folder / parent) as entries:
            for entry in entries:
                name = PurePath(entry.name)
                suffix = name.suffix.lower()
                if entry.is_dir(follow_symlinks=False):
                    if not is_system_file(name / "file"):
                        pending.append(f"{parent}{entry.name}/")
                elif is_system_file(name):
                    continue
                elif suffix in SUFFIXES:
                    yield f"{parent}{entry.name}"
                elif entry.is_dir():
                    skipped["links to folders"] += 1
                elif not entry.name.startswith("."):
                    kind = f"{suffix or 'other'} files"
                    skipped[kind if len(skipped) < _COUNTED_KINDS else "other files"] += 1
