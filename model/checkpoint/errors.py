"""What can be wrong with a checkpoint: one class, and the way its messages quote what they found."""

from __future__ import annotations

from collections.abc import Iterable

MOST_NAMES = 10  # names listed in one message; the count says how many more there are
MOST_CHARACTERS = 120  # of one quoted value; files under suspicion hold values of any length


class CheckpointError(ValueError):
    """The checkpoint is incomplete, damaged, or not one this model can load."""

    exit_code = 4  # of the command line: bad checkpoint, bundle or provider


def quote_value(value: object) -> str:
    """A value from a file as one short line of printable ASCII, whatever the file holds."""
    text = ascii(value)
    return text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 3] + "..."


def quote_names(names: Iterable[str]) -> str:
    """Up to ten names in sorted order, and how many were left out."""
    ordered = sorted(names)
    text = ", ".join(quote_value(name).strip("'") for name in ordered[:MOST_NAMES])
    return text if len(ordered) <= MOST_NAMES else f"{text} and {len(ordered) - MOST_NAMES} more"
