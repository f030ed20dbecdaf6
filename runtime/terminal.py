"""How the command line ends: one line and an exit code for every error, quiet when nobody listens."""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType

import click

INTERRUPTED = 130  # 128 + SIGINT, as shells report it
TERMINATED = 143  # 128 + SIGTERM
RESOURCES = 5
UNEXPECTED = 1
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def run_command(command: Callable[[], object]) -> int:
    """Run a click command in non-standalone mode and turn what it raises into an exit code.

    Errors of ours carry their code in `exit_code` and are one line; a traceback comes only with --debug.
    """
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = command()
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.exceptions.Exit as error:
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        # `| head -1` has what it wanted. Python would complain when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        return _report(error)


def _report(error: Exception) -> int:
    code = getattr(error, "exit_code", None)
    if code is None and _is_shortage(error):
        code, message = RESOURCES, f"out of memory or disk: {_line(error)}"
    elif code is None:
        code = UNEXPECTED
        message = (
            f"unexpected {type(error).__name__}: {_line(error)} (run again with --debug before the command)"
        )
    else:
        message = _line(error)
    if _wants_traceback():
        traceback.print_exception(error)
    click.echo(f"error: {message}", err=True)
    return int(code)


def _is_shortage(error: Exception) -> bool:
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno in (*_DISK_FULL, errno.ENOMEM)
    # torch and onnxruntime raise RuntimeError for a failed allocation.
    return "alloc" in str(error).lower() or "not enough memory" in str(error).lower()


def _line(error: Exception) -> str:
    """The message on one line, in characters the terminal can show."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _wants_traceback() -> bool:
    context = click.get_current_context(silent=True)
    return bool(context and context.find_root().params.get("debug")) or "--debug" in sys.argv[1:2]


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(TERMINATED)
