"""Messages on stderr, and the exception that SIGTERM raises."""

from __future__ import annotations

from contextlib import suppress

import click


class Terminated(KeyboardInterrupt):
    """SIGTERM was received. It is handled like Ctrl-C, but the exit code differs."""


def echo_stderr(text: str) -> None:
    """Print one line to stderr. Control characters are escaped so that the terminal does not receive them."""
    line = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in " ".join(text.split())
    )
    with suppress(OSError):  # stderr may be closed
        click.echo(line, err=True)
