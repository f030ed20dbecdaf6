"""The engine for GPUs on a device that is not there: an environment of its own, and the fake CUDA libraries.

The provider is the real one (see fake_cuda/fake_cuda.h). What it places, takes, copies and refuses is what it
would on a GPU; the numbers are zeros, and nothing is said of them.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from command_line import MAIN, CommandResult
from exporting import RecordingProgress
from paths import ROOT

from paligemma_onnx.export.exporter import ExportRequest, export
from tests.fake_cuda.build import build

ENVIRONMENT = ROOT / ".venv-gpu"
LIBRARIES = ENVIRONMENT / "fake_cuda"
PATH = "LD_LIBRARY_PATH"
# What a script begins with that looks at the counters.
COUNTING = (
    f"import sys\nsys.path.insert(0, {str(ROOT / 'tests' / 'fake_cuda')!r})\nfrom counts import counts\n"
)

told: list[str] = []  # whether these tests ran, for the end of the report


@dataclass(frozen=True)
class FakeCuda:
    """Where the engine for GPUs is, and how it finds the fake CUDA runtime."""

    python: Path
    env: dict[str, str]

    def script(self, text: str, *arguments: object, **knobs: object) -> CommandResult:
        """Run Python; knobs are variables: `FAKE_CUDA_DEVICES=2`, or `LD_LIBRARY_PATH=...`."""
        done = subprocess.run(
            [self.python, "-c", text, *map(str, arguments)],
            env=self.env | {name: str(value) for name, value in knobs.items()},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        return CommandResult(done.returncode, done.stdout, done.stderr)

    def command(self, *arguments: object, **knobs: object) -> CommandResult:
        """Run `paligemma-onnx`."""
        return self.script(MAIN, *arguments, **knobs)


@pytest.fixture(scope="session")
def gpu_python() -> FakeCuda:
    """The engine for GPUs with the fake CUDA runtime, or the test is skipped."""
    python = ENVIRONMENT / "bin" / "python"
    try:
        if not python.exists():
            raise FileNotFoundError(f"no engine for GPUs: `make test` puts it into {ENVIRONMENT.name}")
        build(LIBRARIES)
    except FileNotFoundError as error:
        told[:] = [f"skipped, {error}"]
        pytest.skip(str(error))
    told[:] = ["tested"]
    return FakeCuda(python, os.environ | {PATH: str(LIBRARIES)})


@pytest.fixture(scope="session")
def cuda_bundle(
    tmp_path_factory: pytest.TempPathFactory,
    checkpoint: Callable[[str], Path],
    bundle: Callable[[str], Path],
) -> Callable[..., Path]:
    """A case's bundle in a precision for CUDA, fp32 unless another is asked for; not checked, read only."""
    folder, made = tmp_path_factory.mktemp("cuda"), dict[tuple[str, str], Path]()

    def get(name: str, precision: str = "fp32") -> Path:
        if precision == "fp32":
            return bundle(name)
        if (name, precision) not in made:
            output = folder / f"{name}-{precision}"
            export(ExportRequest(checkpoint(name), output, precision=precision), RecordingProgress(), None)
            made[name, precision] = output
        return made[name, precision]

    return get


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say whether the tests of the fake CUDA runtime ran."""
    for line in told:
        terminalreporter.write_line(f"fake CUDA runtime: {line}")
