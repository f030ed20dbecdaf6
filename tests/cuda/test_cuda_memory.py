"""What sessions take of a GPU, on which one, and what happens where it is not enough (see fake_cuda.py)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_cuda import COUNTING, ROOT, FakeCuda

Folders = Callable[[str], Path]
CASE = "gemma2_window"  # whose vision tower looks at 256 patches: a picture takes some 50 times its own size
PICTURE = ROOT / "export" / "demo" / "scene.png"

# Loads a bundle on a device, answers about so many pictures and prints what that took.
ANSWER = (
    COUNTING
    + """
import json
from pathlib import Path
from paligemma_onnx.runtime import PaliGemma, Request
bundle, device, limit, rows = sys.argv[1], sys.argv[2], int(sys.argv[3]) or None, int(sys.argv[4])
model = PaliGemma.load(bundle, device=device, memory_limit=limit)
loaded = counts()
def ask(rows):
    try:
        return len(model.generate_batch([Request(sys.argv[5], "caption en")] * rows, max_new_tokens=2))
    except Exception as error:
        return [type(error).__name__, error.exit_code, str(error)]
found = {"device": model.device, "answered": ask(rows), "again": ask(1), "loaded": loaded, "counts": counts()}
print(json.dumps(found))
"""
)


def answered(fake_cuda: FakeCuda, bundle: Path, device: str, limit: int, rows: int, **knobs: object) -> dict:  # type: ignore[type-arg]
    ended = fake_cuda.script(ANSWER, bundle, device, limit, rows, PICTURE, **knobs)
    assert (ended.code, ended.err) == (0, ""), ended.err
    return json.loads(ended.out)  # type: ignore[no-any-return]


def test_the_gpu_asked_for_is_the_one_that_works(gpu_python: FakeCuda, cuda_bundle: Folders) -> None:
    for device, used, unused in (("cuda", 0, 1), ("cuda:0", 0, 1), ("cuda:1", 1, 0)):
        found = answered(gpu_python, cuda_bundle(CASE), device, 0, 1, FAKE_CUDA_DEVICES=2)
        assert found["device"] == ("cuda:1" if used else "cuda")
        weights = sum(file.stat().st_size for file in cuda_bundle(CASE).glob("*.data"))
        assert found["loaded"]["live_bytes"][used] > weights
        assert found["counts"]["live_bytes"][unused] == 0
        assert found["counts"]["launches"] > found["loaded"]["launches"]


def test_out_of_memory_when_it_is_opened(gpu_python: FakeCuda, cuda_bundle: Folders) -> None:
    bundle = cuda_bundle(CASE)
    needed = answered(gpu_python, bundle, "cuda", 0, 1)["loaded"]["live_bytes"][0]
    asking = ("generate", "--model", bundle, "--image", PICTURE, "caption en")
    ended = gpu_python.command(*asking, "--device", "cuda", FAKE_CUDA_MEMORY=needed // 2)
    assert (ended.code, ended.out) == (5, "")
    assert "out of GPU memory" in ended.error
    assert "--device cuda:N" in ended.error
    # `auto` takes the CPU where CUDA does not start, not where it starts and the bundle is too large for it.
    assert gpu_python.command(*asking, FAKE_CUDA_MEMORY=needed // 2).code == 5
    ended = gpu_python.command(*asking, "--device", "cuda", FAKE_CUDA_MEMORY=0)
    assert (ended.code, ended.out) == (5, "")
    assert "out of GPU memory" in ended.error


def test_out_of_memory_in_a_request(gpu_python: FakeCuda, cuda_bundle: Folders) -> None:
    """The request fails, and the next one does not."""
    bundle = cuda_bundle(CASE)
    one = answered(gpu_python, bundle, "cuda", 0, 1)["counts"]["peak_bytes"][0]
    many = answered(gpu_python, bundle, "cuda", 0, 64)["counts"]["peak_bytes"][0]
    assert many > 1.5 * one
    enough = (one + many) // 2
    found = answered(gpu_python, bundle, "cuda", 0, 64, FAKE_CUDA_MEMORY=enough)
    kind, code, words = found["answered"]
    assert (kind, code) == ("ResourceError", 5)
    assert "out of GPU memory" in words
    assert found["again"] == 1
    assert found["counts"]["peak_bytes"][0] <= enough


def test_no_more_memory_than_allowed(gpu_python: FakeCuda, cuda_bundle: Folders) -> None:
    """By all sessions together."""
    bundle = cuda_bundle(CASE)
    free = answered(gpu_python, bundle, "cuda", 0, 64)
    taken, loaded = free["counts"]["peak_bytes"][0], free["loaded"]["live_bytes"][0]
    assert answered(gpu_python, bundle, "cuda", taken, 64)["answered"] == 64
    limit = (taken + loaded) // 2
    found = answered(gpu_python, bundle, "cuda", limit, 64)
    kind, code, words = found["answered"]
    assert (kind, code) == ("ResourceError", 5)
    assert "out of the GPU memory it may have" in words
    assert found["again"] == 1
    assert loaded < found["counts"]["peak_bytes"][0] <= limit
    weights = (bundle / "decoder.data").stat().st_size
    ended = gpu_python.command(
        *("generate", "--model", bundle, "--image", PICTURE, "caption en"),
        *("--device", "cuda", "--gpu-memory", weights // 2),
    )
    assert (ended.code, ended.out) == (5, "")
    assert "out of the GPU memory it may have" in ended.error


@pytest.mark.parametrize(
    ("error", "words"), [(209, "no kernel image is available for execution on the device"), (719, "unknown")]
)
def test_a_kernel_that_fails(gpu_python: FakeCuda, cuda_bundle: Folders, error: int, words: str) -> None:
    """As where the engine was not built for a GPU so old, or a kernel has crashed."""
    asking = ("generate", "--model", cuda_bundle(CASE), "--image", PICTURE, "caption en")
    ended = gpu_python.command(*asking, "--device", "cuda", FAKE_CUDA_ERROR=error)
    assert (ended.code, ended.out) == (4, "")
    assert f"the GPU failed, {words}" in ended.error
    ended = gpu_python.command(*asking, FAKE_CUDA_ERROR=error)
    assert ended.code == 0
    assert ended.err.startswith("warning: running on the CPU, since CUDA does not load: ")


TAKE = (
    COUNTING
    + """
from paligemma_onnx.runtime.engine import memory as gpu_memory
from paligemma_onnx.runtime.engine.devices import Placement
MB = 1_000_000
place = Placement("cuda", 1, index=1, memory_limit=int(sys.argv[1]) * MB or None)
def live():
    return counts()["live_bytes"][1] // MB
held, said = [], []
for size in (600, 100, 50):
    try:
        held.append(gpu_memory.allocate(size * MB, place))
        said.append(live())
    except Exception as error:
        said.append("refused")
assert held[0].shape() == [600 * MB // 8] and held[0].device_name() == "cuda"
held[0].update_inplace(__import__("numpy").ones(600 * MB // 8, "int64"))
assert held[0].numpy().min() == 1
del held[:]
held = gpu_memory.allocate(10 * MB, place)
del held
gpu_memory.allocate(10 * MB, place)
print(*said, live())
"""
)


@pytest.mark.parametrize(("limit", "said"), [(0, "600 700 750 50"), (710, "600 700 refused 100")])
def test_memory_beside_sessions(gpu_python: FakeCuda, limit: int, said: str) -> None:
    """What is taken is as large as asked for, comes from what is allowed, and goes back.

    All of it but a piece that is used again.
    """
    ended = gpu_python.script(TAKE, limit, FAKE_CUDA_DEVICES=2)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == f"{said}\n"
