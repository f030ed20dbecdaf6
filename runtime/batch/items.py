"""Inputs of a batch run: id, prompt and the location of the image, which is not opened yet."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import ImageError
from .rows import RowError

MAX_IMAGE_BYTES = 1 << 30  # size of an encoded image in a tar; the image is read into memory


@dataclass(frozen=True)
class Slice:
    """A range of bytes in a file, for example a member of a tar."""

    file: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """Return the bytes in the range.

        Raises:
            ImageError: there are more than MAX_IMAGE_BYTES, or the file cannot be read.
        """
        if self.size > MAX_IMAGE_BYTES:
            raise ImageError(
                f"an image in {self.file} has {self.size} bytes, more than {MAX_IMAGE_BYTES}; "
                "store a smaller one"
            )
        try:
            with self.file.open("rb") as file:
                file.seek(self.offset)
                return file.read(self.size)
        except OSError as error:
            raise ImageError(f"{self.file} cannot be read: {error.strerror}; check the disk") from error


@dataclass(frozen=True)
class Item:
    """An input of a batch run. Several inputs may have the same id, and each of them has a separate row."""

    id: str  # valid Unicode
    path: str | None  # path of the image in the output row; None if the image has no name
    prompt: str | None
    image: Path | Slice | bytes | RowError  # location of the encoded image, or the reason for its absence
    suffix: str | None = None  # the expected answer, valid Unicode


def stable_hash(item_id: str) -> int:
    """Return the first 8 bytes of an id's SHA-256 as a big-endian number, which is equal on every machine."""
    return int.from_bytes(hashlib.sha256(item_id.encode("utf-8")).digest()[:8], "big")


@dataclass(frozen=True)
class Shard:
    """One of `count` disjoint subsets of the inputs, selected by the hash of the id."""

    index: int
    count: int

    def items(self, items: Iterable[Item]) -> Iterator[Item]:
        """Iterate over the items that belong to the shard, in their order."""
        if self.count == 1:
            return iter(items)
        return (item for item in items if stable_hash(item.id) % self.count == self.index)
