"""Progress of an export: a bar on a terminal, otherwise a line every 10 seconds; NO_COLOR."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from command_line import MAIN, run_command
from pseudo_terminal import Terminal

from paligemma_onnx.export.cli.progress import INTERVAL, TerminalProgress

COLOUR = "\x1b[31m"  # red, for TQDM_COLOUR=red
# Makes `inspect` show a progress bar for bytes that are written slowly.
SHOW = """
import click, time
import paligemma_onnx.runtime.cli.bundle as commands
def show_progress(bundle):
    from paligemma_onnx.export.cli.progress import TerminalProgress  # imported when used, as in the commands
    with TerminalProgress() as progress:
        progress.stage("reading checkpoint")
        progress.set_total(3_000_000)
        for _ in range(3):
            progress.stage("writing a.data")
            progress.advance(1_000_000)
            time.sleep(0.12)
        progress.warn("something odd")
    raise SystemExit
commands.read_manifest = show_progress
"""


def on_a_terminal(**variables: str) -> str:
    env = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TQDM_COLOUR")}
    with Terminal([sys.executable, "-c", SHOW + MAIN, "inspect", "x"], env | variables) as terminal:
        return terminal.read_until("text that is never printed")


def test_a_bar_where_somebody_looks_on() -> None:
    shown = on_a_terminal()
    assert "%|" in shown
    assert "writing a.data" in shown
    assert "warning: something odd" in shown
    assert COLOUR not in shown


@pytest.mark.slow
def test_no_color() -> None:
    """TQDM_COLOUR colours the bar unless NO_COLOR is set and not empty."""
    assert COLOUR in on_a_terminal(TQDM_COLOUR="red")
    assert COLOUR in on_a_terminal(TQDM_COLOUR="red", NO_COLOR="")
    shown = on_a_terminal(TQDM_COLOUR="red", NO_COLOR="1")
    assert "%|" in shown
    assert "\x1b[3" not in shown
    assert "\x1b[9" not in shown


def test_plain_lines_elsewhere(tmp_path: Path) -> None:
    result = run_command("inspect", str(tmp_path), before=SHOW)
    assert result.err.splitlines() == ["reading checkpoint", "writing a.data", "warning: something odd"]
    assert "\r" not in result.err
    assert "\x1b" not in result.err


def test_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    """A thousand steps in 100 seconds print a line every 10 seconds; a new stage prints one at once."""
    now = 0.0
    with TerminalProgress(lambda: now) as progress:
        for step in range(1000):
            now = step / 10
            progress.stage(f"reference: step {step + 1} of 1000")
        progress.stage("bundle: vision")
        progress.set_total(50_000_000_000)
        for _ in range(50):
            now += 1
            progress.advance(1_000_000_000)
    lines = capsys.readouterr().err.splitlines()
    steps = [line for line in lines if line.startswith("reference: step ")]
    assert len(steps) == 100 / INTERVAL
    assert steps[1] == f"reference: step {int(INTERVAL * 10) + 1} of 1000"
    assert lines[len(steps)] == "bundle: vision"
    assert lines[len(steps) + 1 :] == [
        f"bundle: vision: {gigabytes}.0 of 50.0 GB" for gigabytes in (10, 20, 30, 40, 50)
    ]
