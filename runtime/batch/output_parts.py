"""One file of the output: `rows` consecutive inputs of a shard, there whole or not at all.

.NAME.partial   rows so far, a line of JSON each, appended to and synced batch by batch; a kill at the very
                end may leave that of a Parquet part, which harms nobody
.NAME.count     how many rows and errors the part has, written before the part appears
NAME.FORMAT     the part; from then on it is neither read nor written again

A killed run leaves whole lines and at most one cut one, which is dropped; their number says where to go on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from ..atomic_file import sync, write_atomically
from ..errors import OptionError
from .items import Shard
from .parquet import write_parquet
from .rows import Row

Format = Literal["jsonl", "parquet"]


@dataclass(frozen=True)
class Count:
    """Rows, and how many of them hold an error."""

    rows: int = 0
    errors: int = 0

    def __add__(self, other: Count) -> Count:
        """Both together."""
        return Count(self.rows + other.rows, self.errors + other.errors)


def count_of(rows: Sequence[Row]) -> Count:
    """Rows and errors of a batch."""
    return Count(len(rows), sum(row.error is not None for row in rows))


@dataclass(frozen=True)
class Part:
    """Where the rows of inputs `number * rows` to `(number + 1) * rows` of a shard go."""

    folder: Path
    shard: Shard
    number: int
    format: Format

    @property
    def name(self) -> str:
        """Its file's name without the suffix."""
        return f"part-{self.shard.index:05d}-of-{self.shard.count:05d}-{self.number:06d}"

    @property
    def file(self) -> Path:
        """Its file, once it is complete."""
        return self.folder / f"{self.name}.{self.format}"

    @property
    def _partial(self) -> Path:
        return self.folder / f".{self.name}.partial"

    @property
    def _count(self) -> Path:
        return self.folder / f".{self.name}.count"

    def finished(self) -> Count | None:
        """What a complete part holds; None of one that is not complete.

        Raises:
            OptionError: its count was removed.
        """
        if not self.file.exists():
            return None
        try:
            return Count(**json.loads(self._count.read_bytes()))
        except FileNotFoundError as error:
            raise OptionError(
                f"{self._count}: is missing, as when an output is copied without hidden files; "
                "choose another --output"
            ) from error

    def begun(self) -> Count:
        """What an incomplete part holds; a line that was cut off is removed."""
        if not self._partial.exists():
            return Count()
        count, end = Count(), 0
        with self._partial.open("rb+") as file:
            for line in file:
                try:
                    row = json.loads(line) if line.endswith(b"\n") else None
                except ValueError:  # after a power cut: blocks that were never written
                    row = None
                if row is None:
                    break
                count += Count(1, int(row["error"] is not None))
                end += len(line)
            file.truncate(end)
        return count

    def append(self, rows: Sequence[Row]) -> None:
        """Add a batch, on the disk when this returns."""
        with self._partial.open("ab") as file:
            file.write(b"".join(row.line() for row in rows))
            file.flush()
            os.fsync(file.fileno())

    def finish(self, count: Count) -> None:
        """Make the part appear; `count` is what was appended to it in all.

        Raises:
            ProviderError: pyarrow is not installed.
        """
        with write_atomically(self._count, locked=True) as file:
            file.write(json.dumps(asdict(count)).encode("ascii"))
        if self.format == "jsonl":
            self._partial.replace(self.file)
        else:
            with self._partial.open("rb") as lines, write_atomically(self.file, locked=True) as file:
                write_parquet(lines, file)
            self._partial.unlink()
        sync(self.folder)
