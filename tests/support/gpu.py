"""The GPU that tests/cuda/test_gpu.py runs on: a real one, or the fake CUDA runtime."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from command_line import MAIN, CommandResult
from exporting import RecordingProgress
from fake_cuda import ENVIRONMENT, FakeCuda
from paths import ROOT
from time_limits import HANG

from paligemma_onnx.export.demo.shipped_model import shipped_model
from paligemma_onnx.export.exporter import ExportRequest, export

DEVICE = os.environ.get("GPU_TEST_DEVICE", "cuda")  # of the real GPU; `benchmarks.cuda` sets it
PROBE = ROOT / "tests" / "support" / "gpu_probe.py"
CHECK = """
from paligemma_onnx.runtime.engine.devices import available_devices
from paligemma_onnx.runtime.engine.nvidia_driver import query_driver
driver = query_driver()
if "cuda" not in available_devices():
    print("onnxruntime has no CUDA provider")
elif not driver.gpus:
    print(f"the NVIDIA driver has no GPU ({driver.error or 'libcuda does not load'})")
"""


@dataclass(frozen=True)
class Gpu:
    """An interpreter that has onnxruntime's CUDA provider, and the device that tests use."""

    python: Path
    env: Mapping[str, str]
    device: str
    is_real: bool
    bundle: Callable[[str], Path]  # by precision

    def probe(self, name: str, **arguments: object) -> dict[str, Any]:
        """Run a function of gpu_probe.py in a process and return its result."""
        ended = self._run(
            [str(PROBE), name, json.dumps({"device": self.device, **arguments}, default=str)], {}
        )
        assert ended.code == 0, ended.err
        result: dict[str, Any] = json.loads(ended.out.splitlines()[-1])
        return result

    def command(self, *arguments: object, **variables: str) -> CommandResult:
        """Run `paligemma-onnx`, with further environment variables."""
        return self._run(["-c", MAIN, *map(str, arguments)], variables)

    def _run(self, arguments: list[str], variables: Mapping[str, str]) -> CommandResult:
        ended = subprocess.run(
            [self.python, *arguments],
            env={**self.env, **variables},
            capture_output=True,
            text=True,
            check=False,
            timeout=HANG,
        )
        return CommandResult(ended.returncode, ended.stdout, ended.stderr)


@cache
def real_gpu() -> tuple[Path | None, str]:
    """Return an interpreter that can use a real GPU, or None and why there is none."""
    reasons = []
    for python in (Path(sys.executable), ENVIRONMENT / "bin" / "python"):
        if not python.exists():
            continue
        ended = subprocess.run([python, "-c", CHECK], capture_output=True, text=True, check=False)
        reason = ended.stdout.strip() if ended.returncode == 0 else ended.stderr.strip().splitlines()[-1]
        if not reason:
            return python, ""
        reasons.append(f"{python}: {reason}")
    return None, "no GPU: " + "; ".join(reasons)


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory, shipped_bundle: Path) -> Callable[[str], Path]:
    """Return the shipped model's bundle in a precision; not checked unless fp32."""
    folder = tmp_path_factory.mktemp("shipped-gpu")

    def get(precision: str) -> Path:
        output = folder / precision
        if precision == "fp32":
            return shipped_bundle
        if not output.exists():
            with shipped_model() as checkpoint:
                export(ExportRequest(checkpoint, output, precision=precision), RecordingProgress(), None)
        return output

    return get


@pytest.fixture(
    params=[
        pytest.param("fake", marks=pytest.mark.cuda),
        pytest.param("real", marks=pytest.mark.gpu),
    ]
)
def gpu(request: pytest.FixtureRequest) -> Gpu:
    """Return a real GPU with bundles of the shipped model, or the fake CUDA runtime with random weights."""
    if request.param == "real":
        return request.getfixturevalue("real")  # type: ignore[no-any-return]
    fake: FakeCuda = request.getfixturevalue("gpu_python")
    bundles = request.getfixturevalue("cuda_bundle")
    return Gpu(fake.python, fake.env, "cuda", False, lambda precision: bundles("gemma2_window", precision))


@pytest.fixture
def real(request: pytest.FixtureRequest) -> Gpu:
    """Return a real GPU; the test is skipped if there is none."""
    python, reason = real_gpu()
    if python is None:
        pytest.skip(reason)
    return Gpu(python, dict(os.environ), DEVICE, True, request.getfixturevalue("shipped"))
