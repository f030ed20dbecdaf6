"""Repair what the process inherits: closed standard streams, and variables that stop the progress bar."""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress

MAX_INTERVAL = 3600.0  # seconds
MAX_COLUMNS = 10_000
_COLOURS = ("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white")  # tqdm's names


def open_closed_streams() -> None:
    """Open /dev/null on the standard streams that are closed.

    Otherwise the next file that the process opens gets the descriptor of a standard stream, and libraries
    that print to this descriptor write into the file.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor
            if null == descriptor:
                os.set_inheritable(null, True)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)


def drop_unusable_tqdm_variables() -> None:
    """Remove TQDM_* variables that tqdm cannot use, and those that replace the content of a bar.

    tqdm reads a default for each of its arguments from these variables. With an unusable value it fails when
    it is imported or when a bar is shown.
    """
    for name, value in tuple(os.environ.items()):
        if name.startswith("TQDM_") and not _is_usable(name, value):
            del os.environ[name]


def _is_usable(name: str, value: str) -> bool:
    with suppress(ValueError):
        match name.removeprefix("TQDM_"):
            case "COLOUR":
                return value.lower() in _COLOURS or re.fullmatch("#[0-9a-fA-F]{6}", value) is not None
            case "DISABLE":
                return True
            case "MININTERVAL" | "MAXINTERVAL":
                return 0 <= float(value) <= MAX_INTERVAL
            case "NCOLS":
                return 0 < int(value) <= MAX_COLUMNS
    return False
