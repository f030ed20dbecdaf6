"""Run the command line from tests, in a subprocess or, which is faster, in the test's process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from time_limits import HANG

from paligemma_onnx.runtime import BundleError, PaliGemma
from paligemma_onnx.runtime.cli import process
from paligemma_onnx.runtime.cli.group import cli

# The code of the `paligemma-onnx` script. A test may prepend code that runs first in the same process.
MAIN = "\nfrom paligemma_onnx.runtime.cli.main import main\nmain()"
_started: list[subprocess.Popen[bytes]] = []
INTERNALS = ("Traceback", " at 0x", "<class", "object at", "Errno", "NoneType", "onnxruntime_src")


@dataclass(frozen=True)
class CommandResult:
    """Exit code, stdout and stderr of a command."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The error message on stderr: one printable line, the last one, without Python internals."""
        first, *others = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert not others, self.err
        assert self.err.endswith(f"{first}\n"), self.err
        assert first.isprintable()
        for internal in INTERNALS:
            assert internal not in self.err
        return first


def start_command(*arguments: str, before: str = "", **options: object) -> subprocess.Popen[bytes]:
    """Start a process that runs the code `before` and then the command; `options` are Popen's."""
    process: subprocess.Popen[bytes] = subprocess.Popen(  # type: ignore[call-overload]
        [sys.executable, "-c", before + MAIN, *arguments],
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "preexec_fn": _restore_sigint, **options},
    )
    _started.append(process)
    return process


def end_commands() -> None:
    """End the processes of `start_command` that still run, and close their pipes.

    Otherwise a test that failed would make a later test fail, when Python frees the process and warns.
    """
    while _started:
        with _started.pop() as process:
            process.kill()  # no effect if it has ended


def run_command(*arguments: str, before: str = "", env: dict[str, str] | None = None) -> CommandResult:
    """Run a command in a subprocess until it exits, for at most HANG seconds."""
    command = start_command(*arguments, before=before, env=os.environ | (env or {}))
    out, err = command.communicate(timeout=HANG)
    return CommandResult(command.returncode, out.decode(), err.decode())


def run_in_process(capsys: pytest.CaptureFixture[str], *arguments: object) -> CommandResult:
    """Run a command in this process until it returns."""
    capsys.readouterr()
    texts = [str(argument) for argument in arguments]
    code = process.run_command(lambda: cli.main(texts, prog_name="paligemma-onnx", standalone_mode=False))
    out, err = capsys.readouterr()
    return CommandResult(code, out, err)


def block_imports(*modules: str) -> str:
    """Return code that makes importing these modules fail as if they were not installed."""
    return f"import sys\nsys.modules.update(dict.fromkeys({modules!r}))\n"


def assert_bundle_refused(folder: Path, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Check that `PaliGemma.load` and `generate` refuse a bundle: exit code 4, one line with `words`."""
    with pytest.raises(BundleError) as caught:
        PaliGemma.load(folder, device="cpu")
    assert words in str(caught.value)
    result = run_in_process(capsys, "generate", "--model", folder, "--image", "absent.png", "caption en")
    assert (result.code, result.out) == (4, "")
    assert words in result.error
    assert str(folder) in result.error


def _restore_sigint() -> None:
    """Handle SIGINT as a command in a terminal does: a background job of a shell would ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
