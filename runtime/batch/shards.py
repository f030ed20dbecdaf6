"""Which machine answers which input: the input's id alone decides, so that no machines need to talk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .items import Item


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
