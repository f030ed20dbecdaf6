"""Part files of the output. A part file has the rows of consecutive inputs and appears only when complete.

.NAME.partial   the rows written so far, one line of JSON each, appended and synced batch by batch. If the
                process is killed right after it completes a Parquet part, this file may stay without effect.
.NAME.count     numbers of rows and errors in the part, written before the part appears
NAME.FORMAT     the complete part, which is never read or written again

A killed run leaves complete lines and at most one truncated line. The next run drops the truncated line and
resumes after the complete lines.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from ..atomic_file import sync, write_atomically
from ..errors import OptionError
from .items import Shard
from .parquet import write_parquet
from .rows import Row
from .state_file import REMEDY, parse_state, translate_output_errors

Format = Literal["jsonl", "parquet"]


@dataclass(frozen=True)
class Count:
    """Numbers of rows, and sums over rows."""

    rows: int = 0
    errors: int = 0  # rows with an error
    scored: int = 0  # rows with a score; the next two are sums over these rows
    exact_matches: int = 0
    token_accuracy: float = 0.0

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Count:
        """Count rows."""
        return sum((cls._of_row(row) for row in rows), cls())

    @classmethod
    def _of_row(cls, row: Row) -> Count:
        exact = row.exact_match
        return cls(1, row.error is not None, exact is not None, exact or 0, row.token_accuracy or 0.0)

    def __add__(self, other: Count) -> Count:
        """Return the sum of two counts."""
        return Count(
            self.rows + other.rows,
            self.errors + other.errors,
            self.scored + other.scored,
            self.exact_matches + other.exact_matches,
            self.token_accuracy + other.token_accuracy,
        )


@dataclass(frozen=True)
class Part:
    """The file for the rows of inputs `number * part_rows` to `(number + 1) * part_rows` of a shard."""

    folder: Path
    shard: Shard
    number: int
    format: Format

    @property
    def name(self) -> str:
        """Name of the file without the suffix."""
        return f"part-{self.shard.index:05d}-of-{self.shard.count:05d}-{self.number:06d}"

    @property
    def file(self) -> Path:
        """Path of the file; it exists if the part is complete."""
        return self.folder / f"{self.name}.{self.format}"

    @property
    def _partial(self) -> Path:
        return self.folder / f".{self.name}.partial"

    @property
    def _count(self) -> Path:
        return self.folder / f".{self.name}.count"

    def finished_count(self) -> Count | None:
        """Return the counts of a complete part; None if the part is not complete.

        Raises:
            OptionError: the count file is missing or damaged.
        """
        if not self.file.exists():
            return None
        with translate_output_errors(self._count):
            try:
                return parse_state(Count, self._count.read_bytes())
            except FileNotFoundError as error:
                raise OptionError(
                    f"{self._count}: is missing, as if the output was copied without hidden files; {REMEDY}"
                ) from error
            except (ValueError, TypeError) as error:
                raise OptionError(f"{self._count}: is damaged; {REMEDY}") from error

    def recover(self) -> tuple[list[Row], int]:
        """Remove a truncated line at the end of an incomplete part; return the rows before it and their size.

        Raises:
            OptionError: the part contains a line that is JSON, but not a row, or cannot be read.
        """
        rows: list[Row] = []
        if not self._partial.exists():
            return rows, 0
        with translate_output_errors(self._partial), self._partial.open("rb+") as file:
            end = 0
            for line in file:
                if not line.endswith(b"\n"):
                    break
                try:
                    rows.append(parse_state(Row, line))
                except ValueError:  # blocks that were never written before a power cut
                    break
                except TypeError as error:
                    raise OptionError(
                        f"{self._partial}: line {len(rows) + 1} is not a row of this run; {REMEDY}"
                    ) from error
                end += len(line)
            file.truncate(end)
        return rows, end

    def append(self, rows: Sequence[Row], size: int) -> int:
        """Append the rows of a batch, flush them to the disk and return the new size in bytes.

        Args:
            rows: the rows.
            size: bytes that were written before.

        Raises:
            OptionError: the file cannot be written, or does not have `size` bytes.
        """
        lines = b"".join(row.line() for row in rows)
        with translate_output_errors(self._partial), self._partial.open("ab") as file:
            self._check_size(os.fstat(file.fileno()).st_size, size)
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
        return size + len(lines)

    def _check_size(self, found: int, written: int) -> None:
        """Raise OptionError if another program removed or changed the file of an incomplete part."""
        if found != written:
            raise OptionError(
                f"{self._partial}: was removed or changed during the run: it has {found:,} bytes, and "
                f"{written:,} were written; run the command again to write the missing rows"
            )

    def finish(self, count: Count, size: int) -> None:
        """Publish the part under its final name.

        Args:
            count: total of all rows.
            size: bytes of all rows.

        Raises:
            ProviderError: pyarrow is not installed.
            OptionError: a file cannot be read or written, or the rows do not have `size` bytes.
        """
        with translate_output_errors(self.file):
            self._check_size(self._partial.stat().st_size if self._partial.exists() else 0, size)
            with write_atomically(self._count, locked=True) as file:
                file.write(json.dumps(asdict(count)).encode("ascii"))
            if self.format == "jsonl":
                self._partial.replace(self.file)
            else:
                with self._partial.open("rb") as lines, write_atomically(self.file, locked=True) as file:
                    write_parquet(lines, file)
                self._partial.unlink()
            sync(self.folder)
