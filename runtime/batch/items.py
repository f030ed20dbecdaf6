"""One input of a batch: what it is called and where its picture lies. Nothing of it is opened yet."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import ImageError
from .rows import RowError

MOST_BYTES = 1 << 30  # of an encoded picture inside another file, which is read whole


@dataclass(frozen=True)
class Slice:
    """Bytes inside a file: the member of a tar."""

    file: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """The bytes.

        Raises:
            ImageError: there are too many, or the file has ended before them or cannot be read.
        """
        if self.size > MOST_BYTES:
            raise ImageError(
                f"a picture in {self.file} has {self.size} bytes, more than {MOST_BYTES}; store it smaller"
            )
        try:
            with self.file.open("rb") as file:
                file.seek(self.offset)
                return file.read(self.size)
        except OSError as error:
            raise ImageError(f"{self.file} cannot be read: {error.strerror}; check the disk") from error


@dataclass(frozen=True)
class Item:
    """One input. Its id need not be the only one of its kind: every input has a row of its own."""

    id: str  # valid Unicode
    path: str | None  # as the row shows it; None where a picture has no name
    prompt: str | None
    image: Path | Slice | bytes | RowError  # encoded, or why there is none


def hash_of(item_id: str) -> int:
    """A number of 64 bits that an id has on every machine: the first 8 bytes of its SHA-256."""
    return int.from_bytes(hashlib.sha256(item_id.encode("utf-8")).digest()[:8], "big")


@dataclass(frozen=True)
class Shard:
    """One of `count` shares of the inputs."""

    index: int
    count: int

    def items(self, items: Iterable[Item]) -> Iterator[Item]:
        """Those of the shard, in their order."""
        if self.count == 1:
            return iter(items)
        return (item for item in items if hash_of(item.id) % self.count == self.index)
