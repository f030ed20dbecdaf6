"""Pictures in a tar, as webdataset packs them: members that share a key stand behind each other.

A key is a member's path up to the first dot of its name, and the id. The first member with a picture's suffix
is the picture. `.json` may hold an object with a `prompt`; a `.txt` is the prompt only where the command has
none, since in many data sets it is the caption that a picture came with.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePosixPath

from ..errors import OptionError
from .folder import SUFFIXES
from .items import Item, Slice
from .rows import RowError, readable

MOST_TEXT = 1 << 20  # bytes of a `.json` or `.txt` member; a longer one is no prompt


@dataclass(frozen=True)
class _Member:
    key: str
    name: str
    suffix: str  # what follows the key, from the last dot on
    place: Slice


def tar_items(path: Path, prompt: str | None) -> Iterator[Item]:
    """One item a key, in the order of the file.

    Raises:
        OptionError: the tar is damaged or compressed.
    """
    for key, members in groupby(_members(path), lambda member: member.key):
        yield _item(readable(key), list(members), prompt)


def tar_keys(path: Path) -> int:
    """How many items a tar has; reads its headers only. Raises as `tar_items`."""
    return sum(1 for _ in groupby(_members(path), lambda member: member.key))


def _members(path: Path) -> Iterator[_Member]:
    name = "its beginning"
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            while (found := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all
                if found.isreg():
                    name = found.name
                    yield _Member(*_split(name), Slice(path, found.offset_data, found.size))
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # it takes a bad header for the end
                raise tarfile.ReadError
    except (tarfile.TarError, EOFError, OSError) as error:
        raise OptionError(
            f"{path}: is compressed, or damaged behind {readable(name)}; unpack it or fetch it again"
        ) from error


def _split(name: str) -> tuple[str, str, str]:
    """Key, name and suffix of a member."""
    path = PurePosixPath(name)
    return str(path.with_name(path.name.partition(".")[0] or path.name)), name, path.suffix.lower()


def _item(key: str, members: list[_Member], prompt: str | None) -> Item:
    picture = next((member for member in members if member.suffix in SUFFIXES), None)
    path = None if picture is None else readable(picture.name)
    try:
        asked = _prompt(members, prompt)
    except ValueError as error:
        return Item(key, path, None, RowError("input", readable(f"{key}: {error}")))
    if picture is None:
        return Item(key, None, asked, RowError("input", f"{key}: has no member with a picture's suffix"))
    return Item(key, path, asked, picture.place)


def _prompt(members: list[_Member], prompt: str | None) -> str | None:
    """The prompt of a group; raises ValueError where its JSON is none."""
    for member in members:
        if member.suffix == ".json" and member.place.size <= MOST_TEXT:
            try:
                cells = json.loads(member.place.read())
            except (ValueError, RecursionError):
                raise ValueError(f"{member.name} is not JSON") from None
            own = cells.get("prompt") if isinstance(cells, dict) else None
            if own is not None and not isinstance(own, str):
                raise ValueError(f"`prompt` in {member.name} is not text")
            if own is not None:
                return own
    for member in members:
        if prompt is None and member.suffix == ".txt" and member.place.size <= MOST_TEXT:
            return member.place.read().decode("utf-8", "surrogateescape").strip()
    return prompt
