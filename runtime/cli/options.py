"""Options that several commands share, and the objects that commands receive instead of single values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import click

from ..generation.types import Options
from ..image.open import DEFAULT_MAX_PIXELS
from ..paligemma import PaliGemma
from .completion import complete_folders
from .parameters import THREADS, Command, SizeType, device_option

MODEL = click.option(
    "--model",
    metavar="BUNDLE",
    type=click.Path(path_type=Path),
    required=True,
    shell_complete=complete_folders,
    help="Bundle folder written by `export`.",
)
_DEVICE = (
    device_option("auto"),
    THREADS,
    click.option(
        "--gpu-memory",
        metavar="SIZE",
        type=SizeType(),
        show_default="no limit",
        help="Limit the GPU memory for weights, graphs and KV caches, e.g. 12GiB or 800MB.",
    ),
)
_GENERATION = (
    click.option(
        "--max-new-tokens",
        metavar="N",
        type=int,
        show_default="set by the bundle",
        help="Maximum number of tokens to generate.",
    ),
    click.option(
        "--temperature",
        metavar="T",
        type=float,
        default=0.0,
        help="Sampling temperature: higher values vary more, 0 always picks the most likely token.",
    ),
    click.option(
        "--top-k",
        metavar="K",
        type=int,
        default=0,
        help="Sample only from the K most likely tokens; 0 means from all.",
    ),
    click.option(
        "--top-p",
        metavar="P",
        type=float,
        default=1.0,
        help="Nucleus sampling: sample only from the most likely tokens whose probabilities sum to P.",
    ),
    click.option(
        "--seed", metavar="N", type=int, show_default="random", help="Makes sampled answers reproducible."
    ),
    click.option(
        "--constrained",
        is_flag=True,
        help="Generate only complete, well-formed objects with the requested labels; for prompts that start "
        "with detect or segment.",
    ),
    click.option(
        "--max-image-pixels",
        metavar="N",
        type=int,
        default=DEFAULT_MAX_PIXELS,
        help="Reject images with more pixels (width x height).",
    ),
)


@dataclass(frozen=True)
class DeviceOptions:
    """The device that a bundle runs on, and its limits."""

    name: str  # as `--device` takes it
    threads: int | None  # None: all CPUs available to the process
    memory_limit: int | None  # bytes of GPU memory; None: no limit

    def load(self, bundle: Path) -> PaliGemma:
        """Return a loaded bundle. This method raises the same errors as `PaliGemma.load`."""
        return PaliGemma.load(bundle, device=self.name, threads=self.threads, memory_limit=self.memory_limit)


def device_options(command: Command) -> Command:
    """Add the device options to a command, which receives them as `device`, a `DeviceOptions`."""

    @wraps(command)
    def with_device(*, device: str, threads: int | None, gpu_memory: int | None, **arguments: Any) -> object:
        return command(device=DeviceOptions(device, threads, gpu_memory), **arguments)

    return add_options(with_device, *_DEVICE)


def generation_options(command: Command) -> Command:
    """Add the options of a request to a command, which receives them as `options`, an `Options`.

    If the user does not set `max_new_tokens`, `options` does not contain this key, so that the bundle's
    default applies.
    """

    @wraps(command)
    def with_options(*, max_new_tokens: int | None, **arguments: Any) -> object:
        names = Options.__annotations__.keys() & arguments.keys()
        options: dict[str, Any] = {name: arguments.pop(name) for name in names}
        if max_new_tokens is not None:
            options["max_new_tokens"] = max_new_tokens
        return command(options=options, **arguments)

    return add_options(with_options, *_GENERATION)


def add_options(command: Command, *options: Callable[[Command], Command]) -> Command:
    """Add options (or arguments) to a command so that the help lists them in this order."""
    for option in reversed(options):
        command = option(command)
    return command
