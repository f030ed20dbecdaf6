"""How the command line ends: one line and an exit code for every error, quiet when nobody listens."""

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
    """Run a click command in non-standalone mode and turn what it raises into an exit code.

    Errors of ours carry their code in `exit_code` and are one line; a traceback comes only with `debug`.
    """
    try:
        code = command()
        if sys.stdout is not None:  # None where the process was started with stdout closed
            sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = error.exit_code
    except click.ClickException as error:
        context = error.ctx if isinstance(error, click.UsageError) else None
        page = f" (see `{context.command_path} --help`)" if context else ""
        echo_stderr(f"error: {error.format_message().rstrip('.')}{page}")
        code = error.exit_code
    except click.exceptions.Exit as error:
        code = error.exit_code
    except Terminated:
        code = TERMINATED
    except (KeyboardInterrupt, click.Abort):
        code = INTERRUPTED
    except BrokenPipeError:
        code = 0  # `| head -1` has what it wanted
    except Exception as error:
        if debug:
            click.echo("".join(traceback.format_exception(error)), err=True, nl=False)
        code, message = exit_code_and_message(error)
        echo_stderr(f"error: {message}")
    return code if isinstance(code, int) else 0


def install_handlers() -> None:
    """Prepare the process: SIGTERM ends it as Ctrl-C does, no character is too strange for a terminal, and
    who wants no colours gets none."""
    signal.signal(signal.SIGTERM, _terminate)
    if os.environ.get("NO_COLOR"):  # no-color.org; colours come only from bars that are told to have one
        os.environ.pop("TQDM_COLOUR", None)
    # Pillow warns of odd tags in images that it reads all the same; what matters we say ourselves.
    warnings.filterwarnings("ignore", module="PIL")
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            # A terminal that cannot show a character shows a stand-in, and an answer is never lost for it.
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def flush_or_discard() -> None:
    """Write out what is buffered, or drop it if nobody takes it: Python would complain of that at exit."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                stream.flush()
            except OSError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def exit_code_and_message(error: Exception) -> tuple[int, str]:
    """Exit code and message."""
    code = getattr(error, "exit_code", None)
    if isinstance(code, int):
        return code, str(error)
    if words := resource_problem(error):
        return RESOURCES, words
    return (
        UNEXPECTED,
        f"unexpected {type(error).__name__}: {error} (run again with --debug before the command)",
    )


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise Terminated
