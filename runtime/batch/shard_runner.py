"""Process a shard part by part, skipping the rows that an earlier run already wrote."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

from ..errors import OptionError
from ..image.quiet import silence_libraries
from ..paligemma import PaliGemma
from .items import Item, Shard
from .output_parts import Count, Format, Part
from .pipeline import BatchOptions, Model, answer_items
from .sources import Snapshot, Source, check_unchanged, read_counted_items, read_items
from .state_file import REMEDY

# Row counts in the order in which a run yields them, with True for rows that this run wrote and False for
# rows that an earlier run wrote.
Steps = Generator[tuple[Count, bool], None, None]


@dataclass(frozen=True)
class ShardJob:
    """All values that determine the rows of a shard and how to compute them. Ray pickles jobs for workers."""

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
    low_memory: bool = False  # as in PaliGemma.load
    snapshot: Snapshot | None = None  # state of the source when its items were counted; None: not counted

    def open(self) -> PaliGemma:
        """Load the bundle and return its model. The errors of `PaliGemma.load` are not caught."""
        silence_libraries()
        return PaliGemma.load(
            self.bundle,
            device=self.device,
            threads=self.threads,
            memory_limit=self.memory_limit,
            low_memory=self.low_memory,
        )

    def part(self, number: int) -> Part:
        """Return the output file with this number."""
        return Part(self.output, self.shard, number, self.format)

    def items(self) -> Iterator[Item]:
        """Iterate over the items of the shard.

        Raises:
            OptionError: the source cannot be read, or was changed.
        """
        if self.snapshot is None:
            return self.shard.items(read_items(self.source))
        return self.shard.items(read_counted_items(self.source, self.snapshot))

    def check_input(self) -> None:
        """Raise OptionError if the source was changed since its items were counted."""
        if self.snapshot is not None:
            check_unchanged(self.source, self.snapshot)


class PartItems:
    """The items of a shard, part by part.

    Parts that are requested in ascending order are read in one pass over the input. A request for an earlier
    part restarts from the beginning of the input.
    """

    def __init__(self, job: ShardJob) -> None:
        self._job = job
        self._restart()

    def items(self, number: int) -> Iterator[Item]:
        """Iterate over the items of a part; the iterator is empty after the last part.

        A call invalidates the iterator of the previous call, because both read from the same input stream.
        """
        rows = self._job.part_rows
        if number * rows < self._position:
            self._restart()
        for _ in self._read_until(number * rows):
            pass
        return self._read_until((number + 1) * rows)

    def _restart(self) -> None:
        self._position = 0
        self._stream = self._job.items()

    def _read_until(self, end: int) -> Iterator[Item]:
        try:
            while self._position < end and (item := next(self._stream, None)) is not None:
                self._position += 1
                yield item
            self._job.check_input()  # before the part gets its final name
        except OptionError:
            self._restart()  # a generator that raised looks like one that has ended
            raise


def run_shard(job: ShardJob, model: Model) -> Steps:
    """Write the missing rows of a shard and yield their counts; to stop, close the generator.

    Raises:
        BundleError, ProviderError, OptionError, OSError: the run cannot continue. Written rows are kept.
    """
    parts = PartItems(job)
    for number in count():
        items = parts.items(number)
        first = next(items, None)
        if first is None:
            return
        yield from run_part(job.part(number), chain([first], items), model, job.options)


def run_part(part: Part, items: Iterator[Item], model: Model, options: BatchOptions) -> Steps:
    """Write the missing rows of a part and yield their counts; to stop, close the generator.

    Raises:
        BundleError, ProviderError, OptionError, OSError: as in `run_shard`.
    """
    if (finished := part.finished_count()) is not None:
        yield finished, False
        return
    recovered, size = part.recover()
    for number, row in enumerate(recovered, 1):
        item = next(items, None)
        if item is None or item.id != row.id:
            expected = "the input has fewer rows" if item is None else f"that of the input is {item.id!r}"
            raise OptionError(
                f"{part.folder / part.name}: the id of row {number} is {row.id!r}, but {expected}; {REMEDY}"
            )
    total = Count.of(recovered)
    yield total, False
    for rows in answer_items(model, items, options):
        size = part.append(rows, size)
        written = Count.of(rows)
        total += written
        yield written, True
    part.finish(total, size)
