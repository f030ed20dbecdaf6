"""Common options of the benchmark commands, and the JSON file that each command writes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import click

from paligemma_onnx.runtime.atomic_file import write_atomically
from paligemma_onnx.runtime.engine.devices import MAX_THREADS, available_threads

from . import machine
from .memory import available_memory
from .sizes import FAMILIES, SIDES, SIZES

MEMORY_SHARE = 0.8  # default of --memory, as a share of the available memory
GB = 10**9  # bytes

Command = Callable[..., Any]


def parse_names(
    known: Sequence[str], _context: click.Context, _option: click.Parameter, text: str | None
) -> tuple[str, ...] | None:
    """Return comma-separated names as a tuple: empty for an empty text, None if the option is not given.

    Raises:
        click.BadParameter: a name is not in `known`.
    """
    if text is None:
        return None
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if name not in known:
            raise click.BadParameter(f"{name!r} is not one of {', '.join(known)}")
    return names


def parse_numbers(_context: click.Context, _option: click.Parameter, text: str) -> tuple[int, ...]:
    """Return comma-separated numbers as a tuple without duplicates.

    Raises:
        click.BadParameter: a part of the text is not a positive integer.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"{text!r} is not a list of numbers such as 1,4")
    return tuple(dict.fromkeys(map(int, parts)))


def _threads(_context: click.Context, _option: click.Parameter, threads: int | None) -> int:
    return threads or available_threads()


def _memory(_context: click.Context, _option: click.Parameter, gigabytes: int | None) -> int:
    """Return --memory in bytes."""
    return int(available_memory() * MEMORY_SHARE) if gigabytes is None else gigabytes * GB


_COMMON = (
    click.option(
        "--work",
        type=click.Path(path_type=Path),
        required=True,
        help="Folder for checkpoints, bundles and logs; the next run reuses checkpoints and bundles.",
    ),
    click.option("--family", type=click.Choice(FAMILIES), default="paligemma", help="Model family."),
    click.option(
        "--size",
        type=click.Choice(SIZES),
        default="3b",
        help="`vision`: a vision tower of the published size with a tiny decoder. `tiny` only tests the "
        "benchmark.",
    ),
    click.option(
        "--rounds", type=click.IntRange(1), default=5, help="Number of rounds; the report has the medians."
    ),
    click.option(
        "--json", "json_file", type=click.Path(path_type=Path), help="Write all figures to this file."
    ),
)
_PROCESSES = (
    click.option(
        "--threads",
        type=click.IntRange(1, MAX_THREADS),
        callback=_threads,
        help="CPU threads.  [default: all processors]",
    ),
    click.option(
        "--memory",
        "memory_bytes",
        type=click.IntRange(1),
        callback=_memory,
        help="Limit in GB for processes that stay loaded between rounds.  "
        "[default: 80 % of the available memory]",
    ),
    click.option("--export-again", is_flag=True, help="Do not reuse the bundles of an earlier run."),
)
SIDE = click.option(
    "--side", type=click.Choice([*map(str, SIDES)]), default="224", help="Side of the images in pixels."
)


def benchmark(function: Command) -> click.Command:
    """Return a command that calls the function and has all options, including those for processes."""
    return common_options(reduce(lambda command, option: option(command), reversed(_PROCESSES), function))


def common_options(function: Command) -> click.Command:
    """Return a command that calls the function and has the common options of all benchmarks."""
    function = reduce(lambda command, option: option(command), reversed(_COMMON), function)
    return click.command(context_settings={"show_default": True, "max_content_width": 110})(function)


def write_json(file: Path, plan: Mapping[str, Any], started: float, figures: Mapping[str, Any]) -> None:
    """Write all figures so far. Called after each round, so that a killed run leaves its finished rounds.

    Args:
        file: the JSON file, which is overwritten.
        plan: options of the run.
        started: start of the run, a value of `time.perf_counter`.
        figures: further keys of the JSON document.
    """
    document = {
        "machine": machine.describe(),
        "plan": plan,
        "seconds": round(time.perf_counter() - started, 1),
        **figures,
    }
    with write_atomically(file) as out:
        out.write(json.dumps(document, indent=2).encode() + b"\n")
