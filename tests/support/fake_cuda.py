"""Run onnxruntime-gpu of .venv-gpu on the fake CUDA runtime; see tests/fake_cuda/README.md."""

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
from time_limits import HANG

from paligemma_onnx.export.exporter import ExportRequest, export
from tests.fake_cuda.build import build

ENVIRONMENT = ROOT / ".venv-gpu"
LIBRARIES = ENVIRONMENT / "fake_cuda"
PATH = "LD_LIBRARY_PATH"
# First lines of a script that reads the counters.
COUNTING = (
    f"import sys\nsys.path.insert(0, {str(ROOT / 'tests' / 'fake_cuda')!r})\nfrom counts import counts\n"
)

outcome: list[str] = []  # whether these tests ran, for the end of pytest's report


@dataclass(frozen=True)
class FakeCuda:
    """A Python with onnxruntime-gpu that loads the fake CUDA libraries."""

    python: Path
    env: dict[str, str]

    def script(self, text: str, *arguments: object, **knobs: object) -> CommandResult:
        """Run Python; `knobs` are environment variables: `FAKE_CUDA_DEVICES=2`, or `LD_LIBRARY_PATH=...`."""
        process = subprocess.run(
            [self.python, "-c", text, *map(str, arguments)],
            env=self.env | {name: str(value) for name, value in knobs.items()},
            capture_output=True,
            text=True,
            check=False,
            timeout=HANG,
        )
        return CommandResult(process.returncode, process.stdout, process.stderr)

    def command(self, *arguments: object, **knobs: object) -> CommandResult:
        """Run `paligemma-onnx`."""
        return self.script(MAIN, *arguments, **knobs)


@pytest.fixture(scope="session")
def gpu_python() -> FakeCuda:
    """Return onnxruntime-gpu with the fake CUDA runtime, or skip the test."""
    python = ENVIRONMENT / "bin" / "python"
    try:
        if not python.exists():
            raise FileNotFoundError(
                f"no onnxruntime-gpu: `make test-all` installs it into {ENVIRONMENT.name}"
            )
        build(LIBRARIES)
    except FileNotFoundError as error:
        outcome[:] = [f"skipped, {error}"]
        pytest.skip(str(error))
    outcome[:] = ["tested"]
    return FakeCuda(python, os.environ | {PATH: str(LIBRARIES)})


@pytest.fixture(scope="session")
def cuda_bundle(
    tmp_path_factory: pytest.TempPathFactory,
    checkpoint: Callable[[str], Path],
    bundle: Callable[[str], Path],
) -> Callable[..., Path]:
    """Return a function: case, precision (default fp32) -> bundle, read only, not compared with torch."""
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
    """Report whether the tests of the fake CUDA runtime ran."""
    for line in outcome:
        terminalreporter.write_line(f"fake CUDA runtime: {line}")
