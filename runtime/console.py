"""Text on stdout and stderr, and the exception that SIGTERM raises.

Control characters are escaped, because a terminal acts on them and the texts quote answers, file names and
manifests from untrusted sources. The module imports no large library, because the command line uses it before
it imports other modules.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from unicodedata import category

from .interrupts import deferring_signals


class Terminated(KeyboardInterrupt):
    """SIGTERM was received. It is handled like Ctrl-C, but the exit code differs."""


def printable(text: str) -> str:
    """Return a text as one line: escape control characters, line breaks and other invisible characters."""
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def echo_stderr(text: str) -> None:
    """Print one line to stderr, with control characters escaped. Errors of the stream are ignored."""
    echo_stderr_lines(" ".join(text.split()))


def echo_stderr_lines(text: str) -> None:
    """Print lines to stderr, with control characters escaped. Errors of the stream are ignored."""
    with suppress(OSError):  # the stream may be closed, or its disk full: the result does not depend on it
        print("\n".join(map(printable, text.split("\n"))), file=sys.stderr, flush=True)


def echo(text: str, *, end: str = "\n") -> bool:
    """Print a result to stdout, and return whether the reader of stdout is still there.

    On a terminal, control characters other than line breaks and tabs are escaped. A pipe or file receives the
    text unchanged. A signal takes effect after the text is written, so that no result is written in part.

    Raises:
        OSError: the text cannot be written, for example because the disk is full.
    """
    if sys.stdout.isatty():
        text = "".join(_escape(char) if _is_control(char) else char for char in text)
    try:
        with deferring_signals():
            print(text, end=end, flush=True)
    except BrokenPipeError:
        return False
    except OSError as error:
        error.filename = "stdout"  # for the message
        raise
    return True


def _is_control(char: str) -> bool:
    return category(char) == "Cc" and char not in "\n\t"


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode()
