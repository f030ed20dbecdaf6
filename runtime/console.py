"""Messages on stderr and the exception that SIGTERM raises."""

from __future__ import annotations

from contextlib import suppress

import click


class Terminated(KeyboardInterrupt):
    """SIGTERM: ends whatever Ctrl-C ends, in the same way."""


def echo_stderr(text: str) -> None:
    """One line on stderr, in characters that are no command to the terminal."""
    line = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in " ".join(text.split())
    )
    with suppress(OSError):  # nobody listens
        click.echo(line, err=True)
