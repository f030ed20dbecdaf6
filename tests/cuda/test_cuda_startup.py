"""CUDA start-up and its failures, with the real provider and no GPU (see fake_cuda.py)."""

from __future__ import annotations

import ctypes
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_cuda import LIBRARIES, PATH, ROOT, FakeCuda

from tests.fake_cuda.build import LIBRARIES as EVERY

Folders = Callable[[str], Path]
CASE = "gemma_one_kv_head"
PICTURE = ROOT / "export" / "demo" / "scene.png"

# What keeps CUDA from starting: the fake CUDA runtime's knobs, and what is said of it.
TROUBLES = {
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


def asked(bundle: Path, *options: object) -> tuple[object, ...]:
    return ("generate", "--model", bundle, "--image", PICTURE, "--max-new-tokens", 2, *options, "caption en")


def without(folder: Path, *names: str) -> Path:
    """The fake CUDA libraries, some of which do not load: an empty file is found first and is none."""
    for name in EVERY:
        (folder / name).symlink_to(LIBRARIES / name)
    for name in names:
        (folder / name).unlink()
        (folder / name).touch()
    return folder


@pytest.mark.parametrize("trouble", TROUBLES)
def test_the_reason_is_told(gpu_python: FakeCuda, cuda_bundle: Folders, trouble: str) -> None:
    """By the command that wants CUDA, by the one that takes the CPU instead, and by the doctor."""
    knobs, words = TROUBLES[trouble]
    ended = gpu_python.command(*asked(cuda_bundle(CASE), "--device", "cuda"), **knobs)
    assert (ended.code, ended.out) == (4, "")
    assert f"CUDA does not start: {words.partition('(')[0]}".rstrip() in ended.error
    assert words in ended.error
    ended = gpu_python.command(*asked(cuda_bundle(CASE), "--json"), **knobs)
    assert (ended.code, json.loads(ended.out)["device"]) == (0, "cpu")
    assert ended.err.startswith("warning: running on the CPU, since CUDA does not load: ")
    assert words in ended.err
    assert ended.err.count("\n") == 1  # the engine's own words are not among them
    ended = gpu_python.command("doctor", "--json", **knobs)
    found = json.loads(ended.out)
    assert (ended.code, found["devices"], ended.err) == (0, ["cpu"], "")
    assert words in found["unusable"]["cuda"]


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
    path = without(tmp_path, *absent)
    ended = gpu_python.command(*asked(cuda_bundle(CASE), "--device", "cuda"), **{PATH: path})
    assert (ended.code, ended.out) == (4, "")
    assert all(one in ended.error for one in words)
    assert all((name in ended.error) == (name in absent) for name in EVERY)
    ended = gpu_python.command("doctor", **{PATH: path})
    assert ended.code == 0
    assert all(one in ended.out for one in words)


def test_without_any_of_cuda(gpu_python: FakeCuda, cuda_bundle: Folders) -> None:
    """As where `paligemma-onnx[gpu]` was installed and nothing else."""
    absent = [name for name in EVERY if not loads(name)]
    if not absent:
        pytest.skip("CUDA is installed here")
    ended = gpu_python.command(*asked(cuda_bundle(CASE), "--device", "cuda"), **{PATH: ""})
    assert (ended.code, ended.out) == (4, "")
    assert all(name in ended.error for name in absent)


def loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def test_a_gpu_that_is_not_there(gpu_python: FakeCuda, cuda_bundle: Folders) -> None:
    asking = asked(cuda_bundle(CASE), "--device", "cuda:3")
    ended = gpu_python.command(*asking, FAKE_CUDA_DEVICES=2)
    assert (ended.code, ended.out) == (4, "")
    assert "there is no GPU 3, only cuda:0 to cuda:1" in ended.error
    assert "there is no GPU 3, only cuda\n" in gpu_python.command(*asking).err


def test_the_doctor_lists_gpus(gpu_python: FakeCuda) -> None:
    memory = 4 << 30
    found = gpu_python.command("doctor", FAKE_CUDA_DEVICES=2, FAKE_CUDA_MEMORY=memory, FAKE_CUDA_COMPUTE=86)
    assert "devices            cpu, cuda, cuda:1\n" in found.out
    assert "gpu 1              FakeCuda 1, 4.0 GiB, compute capability 8.6\n" in found.out
    assert "nvidia driver      for CUDA 13.0\n" in found.out
    assert "paligemma-onnx[gpu,export]" in found.out  # never both engines
    found = json.loads(
        gpu_python.command("doctor", "--json", FAKE_CUDA_DEVICES=1, FAKE_CUDA_MEMORY=memory).out
    )
    assert found["gpus"] == [{"name": "FakeCuda 0", "memory_bytes": memory, "compute": [9, 0]}]
    assert (found["devices"], found["unusable"], found["driver"]) == (["cpu", "cuda"], {}, [13, 0])


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
    """Whatever keeps CUDA from starting is the error then."""
    bundle = cuda_bundle("gemma2_window", "bf16")
    assert gpu_python.script(ONLY_CUDA, bundle).out == "cuda\n"
    ended = gpu_python.script(ONLY_CUDA, bundle, FAKE_CUDA_DEVICES=0)
    assert ended.out.startswith("ProviderError 4 CUDA does not start: the NVIDIA driver has no GPU")
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    ended = gpu_python.script(ONLY_CUDA, bundle, **{PATH: without(tmp_path, "libcuda.so.1")})
    assert ended.out.startswith("ProviderError 4 CUDA does not start: libcuda.so.1 not found")
    assert ended.err == ""
