"""Start-up of CUDA and its failures, with onnxruntime's CUDA provider and no GPU."""

from __future__ import annotations

import ctypes
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_cuda import LIBRARIES, PATH, ROOT, FakeCuda

from tests.fake_cuda.build import LIBRARIES as LIBRARY_SOURCES

Folders = Callable[[str], Path]
CASE = "gemma_one_kv_head"
IMAGE = ROOT / "export" / "demo" / "scene.png"

# Why CUDA does not start: environment variables of the fake CUDA runtime, and the message.
FAILURES = {
    "no GPU": ({"FAKE_CUDA_DEVICES": 0}, "the NVIDIA driver has no GPU to offer (CUDA_ERROR_NO_DEVICE)"),
    "GPUs hidden": (
        {"FAKE_CUDA_DEVICES": 0, "CUDA_VISIBLE_DEVICES": "-1"},
        "(CUDA_ERROR_NO_DEVICE); CUDA_VISIBLE_DEVICES is '-1'",
    ),
    "old driver": (
        {"FAKE_CUDA_DRIVER": 12040},
        "the NVIDIA driver is for CUDA 12.4, onnxruntime needs 13: update the driver",
    ),
}


def generate_command(bundle: Path, *options: object) -> tuple[object, ...]:
    return ("generate", "--model", bundle, "--image", IMAGE, "--max-new-tokens", 2, *options, "caption en")


def link_libraries_without(folder: Path, *names: str) -> Path:
    """Link the fake CUDA libraries into a folder, with empty files, which do not load, for `names`."""
    for name in LIBRARY_SOURCES:
        (folder / name).symlink_to(LIBRARIES / name)
    for name in names:
        (folder / name).unlink()
        (folder / name).touch()
    return folder


@pytest.mark.parametrize("failure", FAILURES)
def test_the_reason_is_reported(gpu_python: FakeCuda, cuda_bundle: Folders, failure: str) -> None:
    """By a command with --device cuda, by one that falls back to the CPU, and by `doctor`."""
    knobs, words = FAILURES[failure]
    result = gpu_python.command(*generate_command(cuda_bundle(CASE), "--device", "cuda"), **knobs)
    assert (result.code, result.out) == (4, "")
    assert f"CUDA does not start: {words.partition('(')[0]}".rstrip() in result.error
    assert words in result.error
    result = gpu_python.command(*generate_command(cuda_bundle(CASE), "--json"), **knobs)
    assert (result.code, json.loads(result.out)["device"]) == (0, "cpu")
    assert result.err.startswith("warning: running on the CPU, since CUDA does not load: ")
    assert words in result.err
    assert result.err.count("\n") == 1  # without onnxruntime's messages
    result = gpu_python.command("doctor", "--json", **knobs)
    report = json.loads(result.out)
    assert (result.code, report["devices"], result.err) == (0, ["cpu"], "")
    assert words in report["unusable"]["cuda"]


@pytest.mark.parametrize(
    ("absent", "words"),
    [
        (("libcurand.so.10",), ("libcurand.so.10 not found: `pip install 'paligemma-onnx[gpu,cuda]'`",)),
        (("libcublas.so.13", "libcublasLt.so.13"), ("libcublasLt.so.13, libcublas.so.13 not found",)),
        (("libcuda.so.1",), ("libcuda.so.1 not found: install NVIDIA's driver",)),
        (("libcurand.so.10", "libcuda.so.1"), ("libcurand.so.10 not found", "libcuda.so.1 not found")),
    ],
)
def test_all_libraries_that_are_missing_are_named(
    gpu_python: FakeCuda,
    cuda_bundle: Folders,
    tmp_path: Path,
    absent: tuple[str, ...],
    words: tuple[str, ...],
) -> None:
    path = link_libraries_without(tmp_path, *absent)
    result = gpu_python.command(*generate_command(cuda_bundle(CASE), "--device", "cuda"), **{PATH: path})
    assert (result.code, result.out) == (4, "")
    assert all(phrase in result.error for phrase in words)
    assert all((name in result.error) == (name in absent) for name in LIBRARY_SOURCES)
    result = gpu_python.command("doctor", **{PATH: path})
    assert result.code == 0
    assert all(phrase in result.out for phrase in words)


def test_without_any_of_cuda(gpu_python: FakeCuda, cuda_bundle: Folders) -> None:
    """`paligemma-onnx[gpu]` was installed, but no CUDA libraries."""
    absent = [name for name in LIBRARY_SOURCES if not loads(name)]
    if not absent:
        pytest.skip("CUDA is installed here")
    result = gpu_python.command(*generate_command(cuda_bundle(CASE), "--device", "cuda"), **{PATH: ""})
    assert (result.code, result.out) == (4, "")
    assert all(name in result.error for name in absent)


def loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def test_a_gpu_that_is_not_there(gpu_python: FakeCuda, cuda_bundle: Folders) -> None:
    command = generate_command(cuda_bundle(CASE), "--device", "cuda:3")
    result = gpu_python.command(*command, FAKE_CUDA_DEVICES=2)
    assert (result.code, result.out) == (4, "")
    assert "there is no GPU 3, only cuda:0 to cuda:1" in result.error
    assert "there is no GPU 3, only cuda\n" in gpu_python.command(*command).err


def test_the_doctor_lists_gpus(gpu_python: FakeCuda) -> None:
    memory = 4 << 30
    report = gpu_python.command("doctor", FAKE_CUDA_DEVICES=2, FAKE_CUDA_MEMORY=memory, FAKE_CUDA_COMPUTE=86)
    assert "devices            cpu, cuda, cuda:1\n" in report.out
    assert "gpu 1              FakeCuda 1, 4.0 GiB, compute capability 8.6\n" in report.out
    assert "nvidia driver      for CUDA 13.0\n" in report.out
    assert "paligemma-onnx[gpu,export]" in report.out  # not [cpu]: the two cannot be installed together
    facts = json.loads(
        gpu_python.command("doctor", "--json", FAKE_CUDA_DEVICES=1, FAKE_CUDA_MEMORY=memory).out
    )
    assert facts["gpus"] == [{"name": "FakeCuda 0", "memory_bytes": memory, "compute": [9, 0]}]
    assert (facts["devices"], facts["unusable"], facts["driver"]) == (["cpu", "cuda"], {}, [13, 0])


ONLY_CUDA = """
import sys
from paligemma_onnx.runtime import PaliGemma
try:
    print(PaliGemma.load(sys.argv[1]).device)
except Exception as error:
    print(type(error).__name__, error.exit_code, error)
"""


def test_a_bundle_for_gpus_does_not_run_on_the_cpu(
    gpu_python: FakeCuda, cuda_bundle: Folders, tmp_path: Path
) -> None:
    """The reason why CUDA does not start is the error then."""
    bundle = cuda_bundle("gemma2_window", "bf16")
    assert gpu_python.script(ONLY_CUDA, bundle).out == "cuda\n"
    result = gpu_python.script(ONLY_CUDA, bundle, FAKE_CUDA_DEVICES=0)
    assert result.out.startswith("ProviderError 4 CUDA does not start: the NVIDIA driver has no GPU")
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    result = gpu_python.script(ONLY_CUDA, bundle, **{PATH: link_libraries_without(tmp_path, "libcuda.so.1")})
    assert result.out.startswith("ProviderError 4 CUDA does not start: libcuda.so.1 not found")
    assert result.err == ""
