"""The work of a shard, part by part: what is done is counted and passed over, the rest is answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path

from ..paligemma import PaliGemma
from .items import Item, Shard
from .output_parts import Count, Format, Part, count_of
from .pipeline import BatchOptions, Model, answer_items
from .sources import Source, items_of


@dataclass(frozen=True)
class ShardJob:
    """Everything that decides the rows of a shard, and how they are made; goes to other machines as it is."""

    source: Source
    output: Path
    shard: Shard
    format: Format
    part_rows: int
    asking: BatchOptions
    bundle: Path
    device: str
    threads: int | None
    memory_limit: int | None = None  # bytes, of a GPU

    def open(self) -> PaliGemma:
        """The bundle; raises what `PaliGemma.load` raises."""
        return PaliGemma.load(
            self.bundle, device=self.device, threads=self.threads, memory_limit=self.memory_limit
        )

    def part(self, number: int) -> Part:
        """Where rows go."""
        return Part(self.output, self.shard, number, self.format)


@dataclass(frozen=True)
class Callbacks:
    """Who is told of rows, and says when to stop."""

    passed: Callable[[Count], object]  # rows of an earlier run
    answered: Callable[[Count], object]
    stopped: Callable[[], bool]


class Parts:
    """Items of a shard, a part at a time: forward as they come, backward by starting again."""

    def __init__(self, work: ShardJob) -> None:
        self._work = work
        self._start()

    def items(self, number: int) -> Iterator[Item]:
        """The items of a part; none behind the last one. An iterator ends the one handed out before."""
        rows = self._work.part_rows
        if number * rows < self._position:
            self._start()
        for _ in self._until(number * rows):
            pass
        return self._until((number + 1) * rows)

    def _start(self) -> None:
        self._position = 0
        self._stream = self._work.shard.items(items_of(self._work.source))

    def _until(self, end: int) -> Iterator[Item]:
        while self._position < end and (item := next(self._stream, None)) is not None:
            self._position += 1
            yield item


def run_shard(work: ShardJob, model: Model, watch: Callbacks) -> None:
    """Answer what is left of a shard, or as much of it as there is time for.

    Raises:
        BundleError, ProviderError, OptionError, OSError: the run cannot go on; what is written stays.
    """
    parts = Parts(work)
    for number in count():
        items = parts.items(number)
        first = next(items, None)
        if first is None or watch.stopped():
            return
        run_part(work.part(number), chain([first], items), model, work.asking, watch)


def run_part(
    part: Part, items: Iterator[Item], model: Model, asking: BatchOptions, watch: Callbacks
) -> Count:
    """Write what is left of a part, unless the watch says stop before that; raises as `run_shard`.

    Returns:
        What was written now, and not in an earlier run.
    """
    if (finished := part.finished()) is not None:
        watch.passed(finished)
        return Count()
    begun = part.begun()
    watch.passed(begun)
    written = Count()
    for rows in answer_items(model, islice(items, begun.rows, None), asking):
        part.append(rows)
        written += count_of(rows)
        watch.answered(count_of(rows))
        if watch.stopped():
            return written
    part.finish(begun + written)
    return written
