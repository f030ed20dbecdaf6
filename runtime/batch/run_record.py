"""The record of a run in its output folder, which prevents different runs from mixing their rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from ..atomic_file import write_atomically
from ..console import echo_stderr
from ..errors import OptionError
from ..generation.sampling import random_seed
from ..resource_errors import resource_problem
from .columns import Columns
from .folder import SUFFIXES, write_listing
from .items import Shard
from .output_parts import Format
from .sources import Kind, Source, count_items
from .state_file import parse_state, translate_output_errors

RECORD = "run.json"
LISTING = ".listing.jsonl"
_EMPTY: dict[Kind, str] = {
    "folder": f"image files in a folder end in {', '.join(sorted(SUFFIXES))}",
    "list": "write the path of one image per line",
    "jsonl": "write one JSON object per line",
    "csv": "write a header and one row per image",
    "parquet": "write one row per image",
    "tar": "pack one image per sample",
}
# Files that a run writes, without the record and the locks.
_OUTPUT_FILES = ("part-*-of-*-*.jsonl", "part-*-of-*-*.parquet", ".part-*-of-*-*", f"{LISTING}*")


@dataclass(frozen=True)
class RunRecord:
    """Number of inputs of a run, and all values that determine its rows."""

    bundle_id: str
    input: str
    input_bytes: int | None  # None for a folder
    input_modified: int | None  # ns since 1970; None for a folder
    prompt: str | None
    columns: Columns
    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    repetition_penalty: float
    suppress_tokens: tuple[int, ...]
    logprobs: bool
    special_tokens: bool
    seed: int | None  # None if answers are greedy; random if sampling has no --seed
    constrained: bool
    max_image_pixels: int
    format: Format
    part_rows: int
    num_shards: int
    rows: int = 0  # inputs of all shards, counted at the start of the first run; not compared


@contextmanager
def open_run(
    output: Path, requested: RunRecord, source: Source, shard: Shard, *, force: bool
) -> Iterator[RunRecord]:
    """Open or create the record of an output and lock the shard until the block ends.

    Yields the existing record if it describes the requested run, otherwise a new one. The system releases the
    lock if the process dies.

    Args:
        output: the folder; created if it does not exist.
        requested: the run to start or resume.
        source: the inputs; they are listed and counted if the record is new.
        shard: the shard to write.
        force: whether to delete the files of a different run. Rows of the same run always stay, so that all
            tasks of a job array can use this option.

    Raises:
        OptionError: the output belongs to a different run or cannot be written, another process is writing
            the shard, or the input cannot be read.
        ProviderError: pyarrow is not installed.
    """
    with ExitStack() as shard_lock:
        try:
            output.mkdir(parents=True, exist_ok=True)
            # Without a timeout: another process may be listing millions of files. The shard is locked before
            # this lock is released, so that a process with --force cannot delete its files in between.
            with FileLock(output / ".run.lock"):
                record = _open_record(output, requested, source, force=force)
                lock = f".shard-{shard.index:05d}-of-{shard.count:05d}.lock"
                shard_lock.enter_context(FileLock(output / lock, timeout=0))
        except Timeout as error:
            raise OptionError(
                f"{output}: another process is writing shard {shard.index} of {shard.count}; "
                "wait for it to finish"
            ) from error
        except OSError as error:
            if resource_problem(error):
                raise
            raise OptionError(
                f"{output}: cannot be written ({error.strerror}); choose another --output"
            ) from error
        yield record


def _open_record(output: Path, requested: RunRecord, source: Source, *, force: bool) -> RunRecord:
    existing, difference = None, None
    try:
        existing = _read(output / RECORD)
    except (ValueError, TypeError):
        difference = f"{RECORD} is damaged"
    random = requested.temperature > 0 and requested.seed is None
    if existing is not None:
        # The row count and a random seed are not part of the request; the first run determines them.
        seed = existing.seed if random else requested.seed
        new, old = asdict(replace(requested, rows=existing.rows, seed=seed)), asdict(existing)
        changes = [f"{name} {old[name]!r}, not {new[name]!r}" for name in new if new[name] != old[name]]
        if not changes:
            return existing
        difference = f"was written with {'; '.join(changes)}"
    elif difference is None and any(output.glob("part-*-of-*-*")):
        difference = f"contains parts of a batch run but no {RECORD}"
    if difference is not None:
        if not force:
            raise OptionError(
                f"{output}: {difference}; choose another --output, or use --force to delete its rows"
            )
        _clear(output)
    if source.kind == "folder":
        for note in write_listing(source.path, source.listing):
            echo_stderr(f"note: {note}")
    if random:
        requested = replace(requested, seed=random_seed())
    record = replace(requested, rows=count_items(source))
    if record.rows == 0:
        raise OptionError(f"{source.path}: contains no input; {_EMPTY[source.kind]}")
    with write_atomically(output / RECORD, locked=True) as file:
        file.write(f"{json.dumps(asdict(record), indent=1)}\n".encode("ascii"))
    return record


def _read(path: Path) -> RunRecord | None:
    """Return the record of an output, or None if there is none.

    Raises:
        ValueError, TypeError: the record is damaged.
        OptionError: the record cannot be read.
    """
    with translate_output_errors(path):
        try:
            record = parse_state(RunRecord, path.read_bytes())
        except FileNotFoundError:
            return None
    if record.rows < 1:
        raise ValueError("a run has at least one row")
    return record


def _clear(output: Path) -> None:
    """Delete the files of a run, but no other files in its folder."""
    for lock in output.glob(".shard-*-of-*.lock"):
        try:
            with FileLock(lock, timeout=0):
                pass
        except Timeout as error:
            raise OptionError(f"{output}: another process is writing to it; wait for it to finish") from error
    for pattern in _OUTPUT_FILES:
        for file in output.glob(pattern):
            file.unlink()
    (output / RECORD).unlink(missing_ok=True)
