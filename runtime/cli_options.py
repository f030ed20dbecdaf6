"""Options that several commands have, and what they become."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from .image import DEFAULT_MAX_PIXELS
from .session import DEVICES, MOST_THREADS

Command = TypeVar("Command", bound=Callable[..., Any])

MODEL = click.option(
    "--model", type=click.Path(path_type=Path), required=True, help="Bundle made by `export`."
)
MAX_NEW_TOKENS = click.option(
    "--max-new-tokens", type=int, help="Most tokens to generate.  [default: the bundle's]"
)
DEVICE = click.option("--device", type=click.Choice(DEVICES), default="auto", help="Where to run.")
THREADS = click.option(
    "--threads", type=click.IntRange(1, MOST_THREADS), help="Threads of the CPU.  [default: all]"
)
MAX_IMAGE_PIXELS = click.option(
    "--max-image-pixels", type=int, default=DEFAULT_MAX_PIXELS, help="Refuse larger images before decoding."
)
RELEASE_VISION = click.option(
    "--release-vision", is_flag=True, help="Hold the vision graph only while it runs."
)
CONSTRAINED = click.option(
    "--constrained", is_flag=True, help="Let the model write only what can be read as objects."
)


def sampling(command: Command) -> Command:
    """The options that say how the next token is chosen."""
    for option in (
        click.option("--seed", type=int, help="Repeat a sampled answer.  [default: drawn]"),
        click.option(
            "--top-k", type=int, default=0, help="Sample among this many likeliest tokens; 0 means all."
        ),
        click.option(
            "--top-p",
            type=float,
            default=1.0,
            help="Sample among tokens that together have this probability.",
        ),
        click.option(
            "--temperature", type=float, default=0.0, help="0 takes the likeliest token, 1 samples."
        ),
    ):
        command = option(command)
    return command
