"""Exit codes, error messages and signals of the command-line process."""

from __future__ import annotations

import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from types import FrameType

import click

from ..console import Terminated, echo_stderr
from ..resource_errors import resource_problem

INTERRUPTED = 130  # 128 + SIGINT, as shells report it
TERMINATED = 143  # 128 + SIGTERM
RESOURCES = 5
UNEXPECTED = 1


def run_command(command: Callable[[], object], *, debug: bool = False) -> int:
    """Run a click command in non-standalone mode and return the exit code for its result or exception.

    An error is printed to stderr as one line. If `debug` is true, the traceback is printed before this line.
    Exceptions of this package carry their exit code in `exit_code`.
    """
    try:
        code = command()
        if sys.stdout is not None:  # None if the process was started with stdout closed
            sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = error.exit_code
    except click.ClickException as error:
        context = error.ctx if isinstance(error, click.UsageError) else None
        hint = f" (see `{context.command_path} --help`)" if context else ""
        echo_stderr(f"error: {error.format_message().rstrip('.')}{hint}")
        code = error.exit_code
    except click.exceptions.Exit as error:
        code = error.exit_code
    except Terminated:
        code = TERMINATED
    except (KeyboardInterrupt, click.Abort):
        code = INTERRUPTED
    except BrokenPipeError:
        code = 0  # a reader such as `head -1` closed the pipe
    except Exception as error:
        if debug:
            click.echo("".join(traceback.format_exception(error)), err=True, nl=False)
        code, message = exit_code_and_message(error)
        echo_stderr(f"error: {message}")
    return code if isinstance(code, int) else 0


def install_handlers() -> None:
    """Set up SIGTERM handling, NO_COLOR, warning filters, and the encoding of stdout and stderr."""
    signal.signal(signal.SIGTERM, _terminate)
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
        return code, str(error)
    if problem := resource_problem(error):
        return RESOURCES, problem
    return (
        UNEXPECTED,
        f"unexpected {type(error).__name__}: {error} "
        "(run `paligemma-onnx --debug COMMAND ...` for a traceback)",
    )


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise Terminated
