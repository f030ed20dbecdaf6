"""GPU memory of sessions and requests, the choice of the GPU, and errors if memory is short."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_cuda import COUNTING, ROOT, FakeCuda

Folders = Callable[[str], Path]
CASE = "gemma2_window"  # its vision tower has 256 patches: an image needs about 50 times its own size
IMAGE = ROOT / "export" / "demo" / "scene.png"

# Loads a bundle on a device, answers `rows` requests and then one, and prints the counters.
REQUESTS = (
    COUNTING
    + """
import json
from pathlib import Path
from paligemma_onnx.runtime import PaliGemma, Request
bundle, device, limit, rows = sys.argv[1], sys.argv[2], int(sys.argv[3]) or None, int(sys.argv[4])
model = PaliGemma.load(bundle, device=device, memory_limit=limit)
loaded = counts()
def generate(rows):
    try:
        return len(model.generate_batch([Request(sys.argv[5], "caption en")] * rows, max_new_tokens=2))
    except Exception as error:
        return [type(error).__name__, error.exit_code, str(error)]
result = {"device": model.device, "answered": generate(rows), "again": generate(1), "loaded": loaded}
result["counts"] = counts()
print(json.dumps(result))
"""
)


def run_requests(
    fake_cuda: FakeCuda, bundle: Path, device: str, limit: int, rows: int, **knobs: object
) -> dict[str, Any]:
    result = fake_cuda.script(REQUESTS, bundle, device, limit, rows, IMAGE, **knobs)
    assert (result.code, result.err) == (0, ""), result.err
    return json.loads(result.out)  # type: ignore[no-any-return]


def test_the_gpu_asked_for_is_the_one_that_works(gpu_python: FakeCuda, cuda_bundle: Folders) -> None:
    for device, used, unused in (("cuda", 0, 1), ("cuda:0", 0, 1), ("cuda:1", 1, 0)):
        counters = run_requests(gpu_python, cuda_bundle(CASE), device, 0, 1, FAKE_CUDA_DEVICES=2)
        assert counters["device"] == ("cuda:1" if used else "cuda")
        weights = sum(file.stat().st_size for file in cuda_bundle(CASE).glob("*.data"))
        assert counters["loaded"]["live_bytes"][used] > weights
        assert counters["counts"]["live_bytes"][unused] == 0
        assert counters["counts"]["launches"] > counters["loaded"]["launches"]


def test_out_of_memory_when_it_is_opened(gpu_python: FakeCuda, cuda_bundle: Folders) -> None:
    bundle = cuda_bundle(CASE)
    needed = run_requests(gpu_python, bundle, "cuda", 0, 1)["loaded"]["live_bytes"][0]
    command = ("generate", "--model", bundle, "--image", IMAGE, "caption en")
    result = gpu_python.command(*command, "--device", "cuda", FAKE_CUDA_MEMORY=needed // 2)
    assert (result.code, result.out) == (5, "")
    assert "out of GPU memory" in result.error
    assert "--device cuda:N" in result.error
    # `auto` falls back to the CPU if CUDA does not start, but not if the bundle is too large for the GPU.
    assert gpu_python.command(*command, FAKE_CUDA_MEMORY=needed // 2).code == 5
    result = gpu_python.command(*command, "--device", "cuda", FAKE_CUDA_MEMORY=0)
    assert (result.code, result.out) == (5, "")
    assert "out of GPU memory" in result.error


def test_out_of_memory_in_a_request(gpu_python: FakeCuda, cuda_bundle: Folders) -> None:
    """The request fails, and the next one succeeds."""
    bundle = cuda_bundle(CASE)
    small = run_requests(gpu_python, bundle, "cuda", 0, 1)["counts"]["peak_bytes"][0]
    large = run_requests(gpu_python, bundle, "cuda", 0, 64)["counts"]["peak_bytes"][0]
    assert large > 1.5 * small
    memory = (small + large) // 2
    result = run_requests(gpu_python, bundle, "cuda", 0, 64, FAKE_CUDA_MEMORY=memory)
    error, exit_code, message = result["answered"]
    assert (error, exit_code) == ("ResourceError", 5)
    assert "out of GPU memory" in message
    assert result["again"] == 1
    assert result["counts"]["peak_bytes"][0] <= memory


def test_no_more_memory_than_allowed(gpu_python: FakeCuda, cuda_bundle: Folders) -> None:
    """The limit applies to all sessions together."""
    bundle = cuda_bundle(CASE)
    unlimited = run_requests(gpu_python, bundle, "cuda", 0, 64)
    peak, loaded = unlimited["counts"]["peak_bytes"][0], unlimited["loaded"]["live_bytes"][0]
    assert run_requests(gpu_python, bundle, "cuda", peak, 64)["answered"] == 64
    limit = (peak + loaded) // 2
    result = run_requests(gpu_python, bundle, "cuda", limit, 64)
    error, exit_code, message = result["answered"]
    assert (error, exit_code) == ("ResourceError", 5)
    assert "out of the GPU memory that is allowed" in message
    assert result["again"] == 1
    assert loaded < result["counts"]["peak_bytes"][0] <= limit
    weights = (bundle / "decoder.data").stat().st_size
    result = gpu_python.command(
        *("generate", "--model", bundle, "--image", IMAGE, "caption en"),
        *("--device", "cuda", "--gpu-memory", weights // 2),
    )
    assert (result.code, result.out) == (5, "")
    assert "out of the GPU memory that is allowed" in result.error


@pytest.mark.parametrize(
    ("error", "words"), [(209, "no kernel image is available for execution on the device"), (719, "unknown")]
)
def test_a_kernel_that_fails(gpu_python: FakeCuda, cuda_bundle: Folders, error: int, words: str) -> None:
    """onnxruntime was not built for a GPU of this age, or a kernel has crashed."""
    command = ("generate", "--model", cuda_bundle(CASE), "--image", IMAGE, "caption en")
    result = gpu_python.command(*command, "--device", "cuda", FAKE_CUDA_ERROR=error)
    assert (result.code, result.out) == (4, "")
    assert f"the GPU failed, {words}" in result.error
    result = gpu_python.command(*command, FAKE_CUDA_ERROR=error)
    assert result.code == 0
    assert result.err.startswith("warning: running on the CPU, since CUDA does not load: ")


ALLOCATE = (
    COUNTING
    + """
from paligemma_onnx.runtime.engine.memory import allocate
from paligemma_onnx.runtime.engine.devices import Placement
MB = 1_000_000
gpu = Placement("cuda", 1, index=1, memory_limit=int(sys.argv[1]) * MB or None)
def live():
    return counts()["live_bytes"][1] // MB
values, results = [], []
for size in (600, 100, 50):
    try:
        values.append(allocate(size * MB, gpu))
        results.append(live())
    except Exception as error:
        results.append("refused")
assert values[0].shape() == [600 * MB // 8] and values[0].device_name() == "cuda"
values[0].update_inplace(__import__("numpy").ones(600 * MB // 8, "int64"))
assert values[0].numpy().min() == 1
del values[:]
value = allocate(10 * MB, gpu)
del value
allocate(10 * MB, gpu)
print(*results, live())
"""
)


@pytest.mark.parametrize(("limit", "expected"), [(0, "600 700 750 50"), (710, "600 700 refused 100")])
def test_memory_beside_sessions(gpu_python: FakeCuda, limit: int, expected: str) -> None:
    """Allocations have the requested size, count towards the limit, and are freed.

    The arena keeps one piece, which the next allocation reuses.
    """
    result = gpu_python.script(ALLOCATE, limit, FAKE_CUDA_DEVICES=2)
    assert (result.code, result.err) == (0, "")
    assert result.out == f"{expected}\n"
