"""Run the examples as their headers say."""

from __future__ import annotations

import ast
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import run_in_process
from paths import ROOT

FOLDER = ROOT / "examples"
EXAMPLES = sorted(path for path in FOLDER.iterdir() if path.suffix in (".py", ".sh"))


def commands(path: Path) -> list[list[str]]:
    """Return the commands in the header of an example: the indented lines of its docstring or comment."""
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        header = ast.get_docstring(ast.parse(source)) or ""
    else:
        header = "\n".join(line[2:] for line in source.splitlines() if line.startswith("# "))
    lines = header.replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.startswith("    ")]


def run_example(
    name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *added: str
) -> tuple[str, str]:
    """Run the command of an example's header in this process, with arguments added.

    Returns:
        Stdout and stderr of the example and of the commands that it started.
    """
    (command, *_) = commands(FOLDER / name)
    assert command[:2] == ["python", f"examples/{name}"]
    monkeypatch.setattr(sys, "argv", [*command[1:], *added])
    capfd.readouterr()
    runpy.run_path(command[1], run_name="__main__")
    out, err = capfd.readouterr()
    return out, err


def run_commands_in_process(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Run the commands that examples start here: exports then take traced graphs from the cache."""

    run = subprocess.run

    def run_here(command: list[object], **options: Any) -> subprocess.CompletedProcess[str]:
        if command[0] != "paligemma-onnx":
            return run(command, **options)  # type: ignore[call-overload, no-any-return]
        result = run_in_process(capfd, *command[1:])
        assert result.code == 0, result.err
        return subprocess.CompletedProcess(command, 0, result.out)

    monkeypatch.setattr(subprocess, "run", run_here)
