"""CheckpointError, and how its messages quote values that come from a file."""

from __future__ import annotations

from collections.abc import Iterable

MAX_NAMES = 10  # names listed in one message, which also says how many more there are
MAX_CHARACTERS = 120  # of one quoted value; a damaged file may hold values of any length


class CheckpointError(ValueError):
    """The checkpoint is incomplete, damaged, or not one that this model can load."""

    exit_code = 4  # of the command line: bad checkpoint, bundle or provider


def quote_value(value: object) -> str:
    """Return a value from a file as one short line of printable ASCII, whatever the file holds."""
    text = ascii(value)
    return text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 3] + "..."


def quote_names(names: Iterable[str]) -> str:
    """Return up to MAX_NAMES names in sorted order, and the number of names left out."""
    ordered = sorted(names)
    text = ", ".join(quote_value(name).strip("'") for name in ordered[:MAX_NAMES])
    return text if len(ordered) <= MAX_NAMES else f"{text} and {len(ordered) - MAX_NAMES} more"
