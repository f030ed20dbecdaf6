"""CheckpointError, and functions that quote values from a file in its messages."""

from __future__ import annotations

from collections.abc import Iterable

MAX_NAMES = 10  # names listed in one message; the message also counts the names left out
MAX_CHARACTERS = 120  # length of a quoted value; a damaged file may hold values of any length


class CheckpointError(ValueError):
    """The checkpoint is incomplete or damaged, or this model cannot load it."""

    exit_code = 4  # exit code of the command line for a bad checkpoint, bundle or provider


def quote_value(value: object) -> str:
    """Return any value of a file as one line of printable ASCII of at most MAX_CHARACTERS characters."""
    text = ascii(value)
    return text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 3] + "..."


def quote_names(names: Iterable[str]) -> str:
    """Return up to MAX_NAMES names in sorted order, and the number of names left out."""
    ordered = sorted(names)
    text = ", ".join(quote_value(name).strip("'") for name in ordered[:MAX_NAMES])
    return text if len(ordered) <= MAX_NAMES else f"{text} and {len(ordered) - MAX_NAMES} more"
