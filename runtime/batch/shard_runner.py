"""Process a shard part by part, skipping the rows that an earlier run already wrote."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path

from ..paligemma import PaliGemma
from .items import Item, Shard
from .output_parts import Count, Format, Part
from .pipeline import BatchOptions, Model, answer_items
from .sources import Source, read_items

# Row counts as a run proceeds: of a batch that this run wrote (True), or of rows of an earlier run (False).
Steps = Generator[tuple[Count, bool], None, None]


@dataclass(frozen=True)
class ShardJob:
    """Everything that determines the rows of a shard and how they are made. Ray pickles it for workers."""

    source: Source
    output: Path
    shard: Shard
    format: Format
    part_rows: int  # rows per output file
    options: BatchOptions
    bundle: Path
    device: str
    threads: int | None
    memory_limit: int | None = None  # bytes of GPU memory; None: no limit

    def open(self) -> PaliGemma:
        """Load the bundle; raises what `PaliGemma.load` raises."""
        return PaliGemma.load(
            self.bundle, device=self.device, threads=self.threads, memory_limit=self.memory_limit
        )

    def part(self, number: int) -> Part:
        """Return the output file with this number."""
        return Part(self.output, self.shard, number, self.format)


class PartItems:
    """The items of a shard's parts. Reading forward is one pass; going back restarts from the beginning."""

    def __init__(self, job: ShardJob) -> None:
        self._job = job
        self._restart()

    def items(self, number: int) -> Iterator[Item]:
        """Iterate over the items of a part; the iterator is empty after the last part.

        The next call invalidates the iterator of the previous one: they share the input stream.
        """
        rows = self._job.part_rows
        if number * rows < self._position:
            self._restart()
        for _ in self._read_until(number * rows):
            pass
        return self._read_until((number + 1) * rows)

    def _restart(self) -> None:
        self._position = 0
        self._stream = self._job.shard.items(read_items(self._job.source))

    def _read_until(self, end: int) -> Iterator[Item]:
        while self._position < end and (item := next(self._stream, None)) is not None:
            self._position += 1
            yield item


def run_shard(job: ShardJob, model: Model) -> Steps:
    """Write all rows of a shard that are missing; to stop, close the generator.

    Raises:
        BundleError, ProviderError, OptionError, OSError: the run cannot continue. Rows already written stay.
    """
    parts = PartItems(job)
    for number in count():
        items = parts.items(number)
        first = next(items, None)
        if first is None:
            return
        yield from run_part(job.part(number), chain([first], items), model, job.options)


def run_part(part: Part, items: Iterator[Item], model: Model, options: BatchOptions) -> Steps:
    """Write all rows of a part that are missing; to stop, close the generator.

    Raises:
        As `run_shard`.
    """
    if (finished := part.finished_count()) is not None:
        yield finished, False
        return
    total = part.recover()
    yield total, False
    for rows in answer_items(model, islice(items, total.rows, None), options):
        written = part.append(rows)
        total += written
        yield written, True
    part.finish(total)
