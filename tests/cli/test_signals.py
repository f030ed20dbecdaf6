"""SIGINT and SIGTERM at any time end a command quietly with 130 and 143."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from command_line import start_command
from paths import SCENE
from time_limits import HANG

from paligemma_onnx.runtime.cli.process import run_command
from paligemma_onnx.runtime.console import Terminated

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
CLI = "paligemma_onnx.runtime.cli"
ENGINE = "onnxruntime.capi.onnxruntime_pybind11_state"  # onnxruntime's C++ code


def send_when_imported(module: str, number: signal.Signals, delay: float = 0.0) -> str:
    """Return code that sends a signal to its own process a time in seconds after an import has started."""
    return f"""
import os, sys, threading
def send(event, arguments):
    if event == "import" and arguments[0] == {module!r}:
        if {delay}:
            threading.Timer({delay}, os.kill, (os.getpid(), {int(number)})).start()
        else:
            os.kill(os.getpid(), {int(number)})
sys.addaudithook(send)
"""


def run_until_signal(before: str, *arguments: object) -> tuple[int, str]:
    """Run a command; return its exit code, negative if a signal killed it, and what it printed to stderr."""
    process = start_command(*map(str, arguments), before=before)
    _, err = process.communicate(timeout=HANG)
    return process.returncode, err.decode()


@pytest.mark.parametrize("number", CODES)
@pytest.mark.parametrize(
    "module",
    [f"{CLI}.environment", "click", "numpy"],
)
def test_while_modules_are_imported(module: str, number: signal.Signals, tmp_path: Path) -> None:
    send = send_when_imported(module, number)
    result = run_until_signal(send, "generate", "--model", tmp_path, "--image", SCENE, "caption en")
    assert result == (CODES[number], "")


@pytest.mark.slow
@pytest.mark.parametrize("number", CODES)
@pytest.mark.parametrize("command", ["generate", "verify"])
def test_while_the_engine_is_imported_and_a_bundle_opens(
    shipped_bundle: Path, command: str, number: signal.Signals
) -> None:
    """The signals arrive from the start of the import until after the end of a command."""
    arguments = (
        ("verify", shipped_bundle)
        if command == "verify"
        else (command, "--model", shipped_bundle, "--image", SCENE, "caption en")
    )
    for delay in (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.35):
        code, err = run_until_signal(send_when_imported(ENGINE, number, delay), *arguments)
        lines = [line for line in err.splitlines() if not line.startswith("checking ")]  # progress of verify
        assert (code, lines) == (CODES[number], []), f"after {delay} s"


@pytest.mark.slow
def test_two_signals(shipped_bundle: Path) -> None:
    """A second signal while the first is handled changes nothing."""
    send = "".join(send_when_imported(ENGINE, signal.SIGINT, delay) for delay in (0.1, 0.101, 0.102, 0.103))
    arguments = ("generate", "--model", shipped_bundle, "--image", SCENE, "caption en")
    assert run_until_signal(send, *arguments) == (130, "")


def test_an_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    """A background job of a shell ignores Ctrl-C."""
    before = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    send = send_when_imported("numpy", signal.SIGINT)
    code, err = run_until_signal(
        before + send, "generate", "--model", tmp_path / "absent", "--image", SCENE, "caption en"
    )
    assert code == 4
    assert "absent" in err


def test_an_error_that_an_interrupt_caused(capsys: pytest.CaptureFixture[str]) -> None:
    """A library in C++ may raise its own exception after an interrupt."""

    def command() -> None:
        raise ImportError("initialization failed") from Terminated()

    assert run_command(command) == 143
    assert capsys.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.parametrize("module", ["torch", "torch._C", "onnx_ir"])
def test_while_an_export_starts(tmp_path: Path, module: str) -> None:
    arguments = ("export", tmp_path, "--output", tmp_path / "bundle")
    assert run_until_signal(send_when_imported(module, signal.SIGINT), *arguments) == (130, "")


IGNORED = """
import os, signal, sys, time, weakref
class Object:
    pass
def interrupt(_reference):
    os.kill(os.getpid(), signal.SIGTERM)
    for _ in range(1000):
        pass
def read_manifest(_folder):
    object_ = Object()
    reference = weakref.ref(object_, interrupt)
    del object_  # Python ignores exceptions of this callback
    time.sleep(30)
import paligemma_onnx.runtime.cli.bundle
paligemma_onnx.runtime.cli.bundle.read_manifest = read_manifest
"""


def test_a_signal_whose_exception_python_ignored(tmp_path: Path) -> None:
    assert run_until_signal(IGNORED, "inspect", tmp_path) == (143, "")
