"""Exit codes, error messages and output streams of the command-line process."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import click

from ..console import echo_stderr, echo_stderr_lines
from ..errors import name_options
from ..resource_errors import resource_problem
from .signals import INTERRUPTED, exit_code, find_interrupt

UNEXPECTED = 1
USAGE = 2
RESOURCES = 5
NO_WORKING_FOLDER = "the current folder was deleted; change to a folder that exists"


def run_command(command: Callable[[], object], *, debug: bool = False) -> int:
    """Run a click command in non-standalone mode and return the exit code for its result or exception.

    An error is printed to stderr as one line. If `debug` is true, the traceback is printed before this line.
    Exceptions of this package carry their exit code in `exit_code`.
    """
    try:
        code = command()
    except click.exceptions.NoArgsIsHelpError as error:
        with suppress(OSError):
            error.show()
        code = error.exit_code
    except click.ClickException as error:
        context = error.ctx if isinstance(error, click.UsageError) else None
        hint = f" (see `{context.command_path} --help`)" if context else ""
        echo_stderr(f"error: {error.format_message().rstrip('.')}{hint}")
        code = error.exit_code
    except click.exceptions.Exit as error:
        code = error.exit_code
    except click.Abort:
        code = INTERRUPTED
    except KeyboardInterrupt as interrupt:
        code = exit_code(interrupt)
    except Exception as error:
        if cause := find_interrupt(error):
            return exit_code(cause)
        if isinstance(error, BrokenPipeError) and _stdout_is_broken():
            return 0  # a reader such as `head -1` closed the pipe
        if debug:
            echo_stderr_lines("".join(traceback.format_exception(error)).rstrip())
        code, message = exit_code_and_message(error)
        echo_stderr(f"error: {message}")
    return code if isinstance(code, int) else 0


def configure_output() -> None:
    """Set up warnings, NO_COLOR, and the encoding of stdout and stderr."""
    warnings.showwarning = lambda message, *_, **__: echo_stderr(f"warning: {message}")
    if os.environ.get("NO_COLOR"):  # no-color.org; tqdm reads TQDM_COLOUR, nothing else here uses colours
        os.environ.pop("TQDM_COLOUR", None)
    # Pillow warns of harmless metadata problems; the image reader reports what affects the result.
    warnings.filterwarnings("ignore", module="PIL")
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            # Escape characters that the terminal's encoding lacks instead of failing.
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def flush_or_discard() -> None:
    """Flush stdout and stderr. If the reader of a stream is gone, discard the buffered output.

    If the buffered output stayed, Python would print an error at exit.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                stream.flush()
            except OSError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def exit_code_and_message(error: Exception) -> tuple[int, str]:
    """Return the exit code and the one-line message for an exception."""
    code = getattr(error, "exit_code", None)
    if isinstance(code, int):
        return code, name_options(str(error))
    if problem := resource_problem(error):
        place = getattr(error, "filename", None)
        return RESOURCES, f"{place}: {problem}" if place else problem
    if isinstance(error, FileNotFoundError) and not has_working_folder():
        return USAGE, NO_WORKING_FOLDER
    return (
        UNEXPECTED,
        f"unexpected {type(error).__name__}: {error} "
        "(run `paligemma-onnx --debug COMMAND ...` for a traceback)",
    )


def has_working_folder() -> bool:
    """Return whether the current folder still exists."""
    try:
        Path.cwd()
    except FileNotFoundError:
        return False
    return True


def _stdout_is_broken() -> bool:
    try:
        sys.stdout.flush()  # the text that was not written is still in the buffer
    except BrokenPipeError:
        return True
    return False
