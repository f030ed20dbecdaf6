"""Options that several commands have. One line each on a narrow terminal, so that help fits a screen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ..cancellation import Cancellation
from ..engine.devices import MAX_THREADS
from ..generation.types import Options
from ..image.open import DEFAULT_MAX_PIXELS
from .completion import complete_folders
from .param_types import AmountType, DeviceType

Command = TypeVar("Command", bound=Callable[..., Any])

MODEL = click.option(
    "--model",
    type=click.Path(path_type=Path),
    required=True,
    shell_complete=complete_folders,
    help="Bundle made by `export`.",
)
MAX_NEW_TOKENS = click.option("--max-new-tokens", type=int, help="Of an answer.  [default: the bundle's]")
DEVICE = click.option("--device", type=DeviceType(), default="auto", help="auto, cpu, cuda or cuda:N.")
GPU_MEMORY = click.option("--gpu-memory", type=AmountType(), help="Most to take, as 12GiB.")
THREADS = click.option(
    "--threads", type=click.IntRange(1, MAX_THREADS), help="Threads of the CPU.  [default: all]"
)
MAX_IMAGE_PIXELS = click.option(
    "--max-image-pixels", type=int, default=DEFAULT_MAX_PIXELS, help="Refuse larger images."
)
RELEASE_VISION = click.option(
    "--release-vision", is_flag=True, help="Hold the vision graph only while it runs."
)
CONSTRAINED = click.option("--constrained", is_flag=True, help="Write only what reads as objects.")


def options_of(
    *,
    max_new_tokens: int | None,
    temperature: float,
    top_p: float,
    top_k: int,
    seed: int | None,
    constrained: bool,
    max_image_pixels: int,
    cancel: Cancellation,
) -> Options:
    """What one request is asked with; without `max_new_tokens` the bundle's default holds."""
    options = Options(
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=seed,
        constrained=constrained,
        max_image_pixels=max_image_pixels,
        cancel=cancel,
    )
    if max_new_tokens is not None:
        options["max_new_tokens"] = max_new_tokens
    return options


def sampling(command: Command) -> Command:
    """The options that say how the next token is chosen."""
    for option in (
        click.option("--seed", type=int, help="Repeat a sampled answer.  [default: drawn]"),
        click.option("--top-k", type=int, default=0, help="Among so many likeliest; 0: all."),
        click.option(
            "--top-p",
            type=float,
            default=1.0,
            help="From this much probability.",
        ),
        click.option("--temperature", type=float, default=0.0, help="0 takes the likeliest token."),
    ):
        command = option(command)
    return command
