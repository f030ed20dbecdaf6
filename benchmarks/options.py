"""The options that every benchmark command has, and the frame of the JSON that each writes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from paligemma_onnx.runtime.engine.devices import MAX_THREADS, available_threads

from . import machine
from .memory import available_memory
from .sizes import FAMILIES, SIZES

_SHARE = 0.8  # of the memory that is free, for the processes that are kept between rounds
GB = 10**9  # bytes

Command = Callable[..., Any]


def listed(
    known: Sequence[str], _context: click.Context, _option: click.Parameter, text: str | None
) -> tuple[str, ...]:
    """Names between commas; all that are known if nothing is said, none if nothing is named."""
    names = tuple(known) if text is None else tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if name not in known:
            raise click.BadParameter(f"{name!r} is not one of {', '.join(known)}")
    return names


def _threads(_context: click.Context, _option: click.Parameter, threads: int | None) -> int:
    return threads or available_threads()


def _room(_context: click.Context, _option: click.Parameter, memory: int | None) -> int:
    """Bytes."""
    return int(available_memory() * _SHARE) if memory is None else memory * GB


_OPTIONS = (
    click.option(
        "--work", type=click.Path(path_type=Path), required=True, help="For all that is made, and logs."
    ),
    click.option("--family", type=click.Choice(FAMILIES), default="paligemma", help="Which PaliGemma."),
    click.option("--size", type=click.Choice(SIZES), default="3b", help="`tiny` tries the harness."),
    click.option("--rounds", type=click.IntRange(1), default=5, help="Medians of so many are reported."),
    click.option(
        "--threads",
        type=click.IntRange(1, MAX_THREADS),
        callback=_threads,
        help="[default: all processors]",
    ),
    click.option(
        "--memory",
        "room",
        type=click.IntRange(1),
        callback=_room,
        help="GB for processes kept between rounds.  [default: 80 % of what is free]",
    ),
    click.option("--export-again", is_flag=True, help="Do not take bundles of an earlier run."),
    click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all figures here."),
)


def benchmark(command: Command) -> click.Command:
    """Make a command of a function, with these options in front of its own."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return click.command(context_settings={"show_default": True, "max_content_width": 110})(command)


def write_json(file: Path, plan: Mapping[str, Any], started: float, figures: Mapping[str, Any]) -> None:
    """All that is known so far; a run that is killed leaves its finished rounds.

    Args:
        file: is written over.
        plan: what is measured.
        started: by `time.perf_counter`.
        figures: what was found.
    """
    document = {
        "machine": machine.describe(),
        "plan": plan,
        "seconds": round(time.perf_counter() - started, 1),
        **figures,
    }
    file.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
