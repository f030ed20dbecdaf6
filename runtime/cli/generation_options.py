"""The options of a request: number of tokens, sampling, constraints, and the content of the result."""

from __future__ import annotations

from functools import wraps
from typing import Any

import click

from ..generation.types import Options
from ..image.open import DEFAULT_MAX_PIXELS
from .options import add_options
from .parameters import Command, TokenIdsType

_DEFAULT = "set by the bundle"

_GENERATION = (
    click.option(
        "--max-new-tokens",
        metavar="N",
        type=int,
        show_default=_DEFAULT,
        help="Maximum number of tokens to generate.",
    ),
    click.option(
        "--temperature",
        metavar="T",
        type=float,
        show_default=f"{_DEFAULT}, else 0",
        help="Sampling temperature: higher values vary more, 0 always picks the most likely token.",
    ),
    click.option(
        "--top-k",
        metavar="K",
        type=int,
        show_default=f"{_DEFAULT}, else 0",
        help="Sample only from the K most likely tokens; 0 means from all.",
    ),
    click.option(
        "--top-p",
        metavar="P",
        type=float,
        show_default=f"{_DEFAULT}, else 1",
        help="Nucleus sampling: sample only from the most likely tokens whose probabilities sum to P.",
    ),
    click.option(
        "--repetition-penalty",
        metavar="P",
        type=float,
        show_default=f"{_DEFAULT}, else 1",
        help="Make tokens of the prompt and the answer less likely to be repeated; 1 changes nothing.",
    ),
    click.option(
        "--suppress-tokens",
        metavar="IDS",
        type=TokenIdsType(),
        show_default=f"{_DEFAULT}, else none",
        help='Never generate these token ids, such as "108,235"; "" means none.',
    ),
    click.option(
        "--seed", metavar="N", type=int, show_default="random", help="Seed for reproducible samples."
    ),
    click.option(
        "--constrained",
        is_flag=True,
        help="Generate only complete, well-formed objects with the requested labels; for prompts that start "
        "with detect or segment.",
    ),
    click.option(
        "--logprobs",
        is_flag=True,
        help="Include the log-probability of each token in the result of --json and in the rows of `batch`.",
    ),
    click.option(
        "--special-tokens",
        is_flag=True,
        help="Print special tokens of the answer, such as those that a fine-tune added, as text.",
    ),
    click.option(
        "--max-image-pixels",
        metavar="N",
        type=int,
        default=DEFAULT_MAX_PIXELS,
        help="Reject images with more than N pixels (width x height).",
    ),
)


def generation_options(command: Command) -> Command:
    """Add the options of a request to a command, which receives them as `options`, an `Options`.

    `options` contains only what the user set, so that the bundle's defaults apply to the rest. Flags and
    `max_image_pixels`, which have no default in the bundle, are always there.
    """

    @wraps(command)
    def with_options(**arguments: Any) -> object:
        names = Options.__annotations__.keys() & arguments.keys()
        given = {name: arguments.pop(name) for name in names}
        options = {name: value for name, value in given.items() if value is not None}
        return command(options=options, **arguments)

    return add_options(with_options, *_GENERATION)
