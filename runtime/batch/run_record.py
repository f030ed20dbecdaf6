"""What an output holds the answers to, kept in it: a run that would mix in others is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from filelock import FileLock, Timeout

from ..atomic_file import write_atomically
from ..errors import OptionError
from ..generation.sampling import random_seed
from ..resource_errors import resource_problem
from .folder import SUFFIXES, write_listing
from .items import Shard
from .output_parts import Format
from .sources import Source, count_items

RECORD = "run.json"
LISTING = ".listing.jsonl"
_OURS = ("part-*-of-*-*.jsonl", "part-*-of-*-*.parquet", ".part-*-of-*-*", f"{LISTING}*")


@dataclass(frozen=True)
class RunRecord:
    """All that decides rows; `rows` is found out at the start and not compared."""

    bundle_id: str
    input: str
    input_bytes: int | None  # of a file
    input_modified: int | None  # ns since 1970
    prompt: str | None
    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    seed: int | None  # None where answers are greedy; drawn where sampled ones have none
    constrained: bool
    max_image_pixels: int
    format: Format
    part_rows: int
    num_shards: int
    rows: int = 0  # inputs of all shards together


def input_facts(path: Path) -> tuple[int | None, int | None]:
    """Size and time of a file, by which it is known to be the same; a folder has a listing instead."""
    if path.is_dir():
        return None, None
    facts = path.stat()
    return facts.st_size, facts.st_mtime_ns


@contextmanager
def open_run(
    output: Path, wanted: RunRecord, source: Source, shard: Shard, *, force: bool
) -> Iterator[RunRecord]:
    """The record of an output, and the right to write a shard of it for as long as the context lasts.

    The record is the one that is there, if it asks for the same, or a new one. The system ends the right of
    a process that dies.

    Args:
        output: the folder, made where it is missing.
        wanted: what this run would write.
        source: is listed and counted for a new record.
        shard: what is written.
        force: remove what another record's run wrote. Rows of the same record stay in any case, so that
            every task of an array may be started with it.

    Raises:
        OptionError: the output holds something else or cannot be written, another process writes the shard,
            or the input cannot be read.
        ProviderError: pyarrow is not installed.
    """
    with ExitStack() as right:
        try:
            output.mkdir(parents=True, exist_ok=True)
            # Others wait: there may be millions of files to list. The shard is taken before this is given
            # back, so that nobody's --force falls between.
            with FileLock(output / ".run.lock"):
                record = _agree(output, wanted, source, force=force)
                lock = f".shard-{shard.index:05d}-of-{shard.count:05d}.lock"
                right.enter_context(FileLock(output / lock, timeout=0))
        except Timeout as error:
            raise OptionError(
                f"{output}: another process writes shard {shard.index} of {shard.count}; wait for it to end"
            ) from error
        except OSError as error:
            if resource_problem(error):
                raise
            raise OptionError(
                f"{output}: cannot be written ({error.strerror}); choose another --output"
            ) from error
        yield record


def _agree(output: Path, wanted: RunRecord, source: Source, *, force: bool) -> RunRecord:
    there = _read(output / RECORD)
    if there is not None and (same := _adopted(wanted, there)) == there:
        return same
    if there is not None or any(output.glob("part-*-of-*-*")):
        if not force:
            raise OptionError(
                f"{output}: {_difference(wanted, there)}; choose another --output, or replace it with --force"
            )
        _clear(output)
    if source.kind == "folder":
        write_listing(source.path, source.listing)
    if wanted.temperature > 0 and wanted.seed is None:
        wanted = replace(wanted, seed=random_seed())
    record = replace(wanted, rows=count_items(source))
    if record.rows == 0:
        raise OptionError(
            f"{source.path}: holds no input; pictures in a folder end in {', '.join(sorted(SUFFIXES))}"
        )
    with write_atomically(output / RECORD, locked=True) as file:
        file.write(f"{json.dumps(asdict(record), indent=1)}\n".encode("ascii"))
    return record


def _read(path: Path) -> RunRecord | None:
    try:
        return RunRecord(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise OptionError(f"{path}: is damaged; choose another --output") from error


def _adopted(wanted: RunRecord, there: RunRecord) -> RunRecord:
    """What is wanted, with what the first run found out or drew."""
    drawn = wanted.temperature > 0 and wanted.seed is None
    return replace(wanted, rows=there.rows, seed=there.seed if drawn else wanted.seed)


def _difference(wanted: RunRecord, there: RunRecord | None) -> str:
    if there is None:
        return f"holds parts of a batch and no {RECORD}"
    ours, theirs = asdict(_adopted(wanted, there)), asdict(there)
    names = [one.name for one in fields(RunRecord) if ours[one.name] != theirs[one.name]]
    said = ", ".join(f"{name} {theirs[name]!r} and not {ours[name]!r}" for name in names)
    return f"was begun with {said}"


def _clear(output: Path) -> None:
    """Remove the files of a batch, and no others."""
    for lock in output.glob(".shard-*-of-*.lock"):
        try:
            with FileLock(lock, timeout=0):
                pass
        except Timeout as error:
            raise OptionError(f"{output}: another process writes it; wait for it to end") from error
    for pattern in _OURS:
        for file in output.glob(pattern):
            file.unlink()
    (output / RECORD).unlink(missing_ok=True)
