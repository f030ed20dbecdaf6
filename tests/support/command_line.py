"""The command line as tests use it: in a process of its own, or, which is quicker, in this one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from paligemma_onnx.runtime import BundleError, PaliGemma
from paligemma_onnx.runtime.cli.main import cli
from paligemma_onnx.runtime.cli.process import run_command

# What `paligemma-onnx` does; what a test puts before it runs in the same process.
MAIN = "\nfrom paligemma_onnx.runtime.cli.main import main\nmain()"


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """What stderr says of the failure, which must be one line in words for people."""
        first, *others = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert not others, self.err
        assert self.err.endswith(f"{first}\n"), self.err
        assert first.isprintable()
        for internal in (
            "Traceback",
            " at 0x",
            "<class",
            "object at",
            "Errno",
            "NoneType",
            "onnxruntime_src",
        ):
            assert internal not in self.err
        return first


def started(*arguments: str, before: str = "", **options: object) -> subprocess.Popen[bytes]:
    """A process that runs `before` and then the command; signals are as in a terminal."""
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        [sys.executable, "-c", before + MAIN, *arguments],
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "preexec_fn": _as_in_a_terminal, **options},
    )


def ran(*arguments: str, before: str = "", env: dict[str, str] | None = None) -> Ended:
    """Run a command to its end in a process of its own."""
    process = started(*arguments, before=before, env=os.environ | (env or {}))
    out, err = process.communicate(timeout=60)
    return Ended(process.returncode, out.decode(), err.decode())


def ran_here(capsys: pytest.CaptureFixture[str], *arguments: object) -> Ended:
    """Run a command to its end in this process."""
    capsys.readouterr()
    code = run_command(
        lambda: cli.main([str(one) for one in arguments], prog_name="paligemma-onnx", standalone_mode=False)
    )
    out, err = capsys.readouterr()
    return Ended(code, out, err)


def without(*modules: str) -> str:
    """What makes modules look as if they were not installed."""
    return f"import sys\nsys.modules.update(dict.fromkeys({modules!r}))\n"


def assert_bundle_refused(folder: Path, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """By the Python call and by the command, with code 4 and one line, and no graph has run."""
    with pytest.raises(BundleError) as caught:
        PaliGemma.load(folder, device="cpu")
    assert words in str(caught.value)
    ended = ran_here(capsys, "generate", "--model", folder, "--image", "absent.png", "caption en")
    assert (ended.code, ended.out) == (4, "")
    assert words in ended.error
    assert str(folder) in ended.error


def _as_in_a_terminal() -> None:
    signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # a test run in the background ignores it, and so its children
