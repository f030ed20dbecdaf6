"""Entry point of the command `paligemma-onnx`.

This module imports only small modules: until `main` has installed its handlers, Ctrl-C prints a traceback.
"""

from __future__ import annotations

import os
import sys

from ..interrupts import handle_signals
from .signals import INTERRUPTED, TERMINATED


def main() -> None:
    """Run the command line and exit with its code."""
    handle_signals()
    from .environment import drop_unusable_tqdm_variables, open_closed_streams  # noqa: PLC0415

    open_closed_streams()  # first, so that no other file gets the descriptor of a standard stream
    drop_unusable_tqdm_variables()
    from .group import cli  # noqa: PLC0415  takes long; the lines above run first
    from .process import configure_output, flush_or_discard, run_command  # noqa: PLC0415

    configure_output()
    code = run_command(lambda: cli.main(prog_name="paligemma-onnx", standalone_mode=False))
    flush_or_discard()
    if code in (INTERRUPTED, TERMINATED):
        os._exit(code)  # other threads may still open or run a graph, and finalizing Python would abort them
    sys.exit(code)
