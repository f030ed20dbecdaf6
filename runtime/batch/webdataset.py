"""Images in a tar in WebDataset format: consecutive members with the same key form one item.

The key is a member's path up to the first dot of the file name. The key is also the item's id. The first
member with an image suffix is the image. A `.json` member may contain an object with a `prompt`. A `.txt`
member is the prompt only if the command has no prompt, because in many data sets it is the image's caption.
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
from .rows import RowError, replace_surrogates

MAX_TEXT_BYTES = 1 << 20  # size of a `.json` or `.txt` member; longer members are not prompts


@dataclass(frozen=True)
class _Member:
    key: str
    name: str
    suffix: str  # from the last dot of the name, lower case
    content: Slice


def read_tar(path: Path, prompt: str | None) -> Iterator[Item]:
    """Iterate over the items, in the order of the tar.

    Raises:
        OptionError: the tar is damaged or compressed.
    """
    for key, members in groupby(_members(path), lambda member: member.key):
        yield _item(replace_surrogates(key), list(members), prompt)


def count_tar_items(path: Path) -> int:
    """Return the number of items; only the headers are read. Raises as `read_tar`."""
    return sum(1 for _ in groupby(_members(path), lambda member: member.key))


def _members(path: Path) -> Iterator[_Member]:
    name = "its beginning"
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            while (info := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # or it keeps every header in memory
                if info.isreg():
                    name, member = info.name, PurePosixPath(info.name)
                    key = str(member.with_name(member.name.partition(".")[0] or member.name))
                    content = Slice(path, info.offset_data, info.size)
                    yield _Member(key, name, member.suffix.lower(), content)
            file.seek(tar.offset)
            # tarfile takes a damaged header for the end of the archive. The real end is a block of zeros.
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError
    except (tarfile.TarError, EOFError, OSError) as error:
        raise OptionError(
            f"{path}: is compressed, or damaged after {replace_surrogates(name)}; "
            "decompress it or download it again"
        ) from error


def _item(key: str, members: list[_Member], prompt: str | None) -> Item:
    image = next((member for member in members if member.suffix in SUFFIXES), None)
    path = None if image is None else replace_surrogates(image.name)
    try:
        item_prompt = _prompt(members, prompt)
    except ValueError as error:
        return Item(key, path, None, RowError("input", replace_surrogates(f"{key}: {error}")))
    if image is None:
        return Item(key, None, item_prompt, RowError("input", f"{key}: no member has an image suffix"))
    return Item(key, path, item_prompt, image.content)


def _prompt(members: list[_Member], prompt: str | None) -> str | None:
    """Return the prompt of an item; raise ValueError if its JSON is invalid."""
    for member in members:
        if member.suffix == ".json" and member.content.size <= MAX_TEXT_BYTES:
            try:
                cells = json.loads(member.content.read())
            except (ValueError, RecursionError):
                raise ValueError(f"{member.name} is not JSON") from None
            item_prompt = cells.get("prompt") if isinstance(cells, dict) else None
            if isinstance(item_prompt, str):
                return item_prompt
            if item_prompt is not None:
                raise ValueError(f"`prompt` in {member.name} is not text")
    for member in members:
        if prompt is None and member.suffix == ".txt" and member.content.size <= MAX_TEXT_BYTES:
            return member.content.read().decode("utf-8", "surrogateescape").strip()
    return prompt
