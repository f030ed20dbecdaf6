"""Messages on stderr, and the exception that SIGTERM raises."""

from __future__ import annotations

from contextlib import suppress

import click


class Terminated(KeyboardInterrupt):
    """SIGTERM was received; handled like Ctrl-C, with another exit code."""


def echo_stderr(text: str) -> None:
    """Print one line to stderr; control characters are escaped, so that they do not reach the terminal."""
    line = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in " ".join(text.split())
    )
    with suppress(OSError):  # stderr may be closed
        click.echo(line, err=True)
