"""What requests move and take on a GPU (see fake_cuda.py): nothing of the cache, and nothing that stays."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import COUNTING, ROOT, FakeCuda

from paligemma_onnx.runtime.bundle.manifest import read_manifest

CASE, TOKENS, ROWS = "gemma2_window", 6, 2
Bundles = Callable[[str, str], Path]

REQUESTS = (
    COUNTING
    + """
import json
from paligemma_onnx.runtime import PaliGemma, Request
bundle, picture, times, tokens, rows = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
model = PaliGemma.load(bundle, device="cuda")
found = {"loaded": counts()}
for count in range(times):
    before = counts()
    prompts = ["caption en", "answer en what is in the picture?"][:rows]
    model.generate_batch([Request(picture, prompt) for prompt in prompts], max_new_tokens=tokens)
    after = counts()
    moved = {name: after[name] - before[name] for name in after if not isinstance(after[name], list)}
    found[str(count)] = moved | {"live_bytes": after["live_bytes"][0]}
print(json.dumps(found))
"""
)


def asked(fake_cuda: FakeCuda, bundle: Path, times: int, tokens: int, rows: int) -> dict[str, Any]:
    picture = ROOT / "export" / "demo" / "scene.png"
    ended = fake_cuda.script(REQUESTS, bundle, picture, times, tokens, rows)
    assert (ended.code, ended.err) == (0, ""), ended.err
    return json.loads(ended.out)  # type: ignore[no-any-return]


@pytest.mark.parametrize("precision", ["bf16", "int4-bf16", "fp32"])
def test_scores_come_back_and_nothing_else(
    gpu_python: FakeCuda, cuda_bundle: Bundles, precision: str
) -> None:
    """To the CPU: logits of each token. From it: pixels, prompts, a token and a length of each row."""
    bundle = cuda_bundle(CASE, precision)
    manifest = read_manifest(bundle)
    moved = asked(gpu_python, bundle, 2, TOKENS, ROWS)["1"]
    assert moved["to_host_bytes"] == TOKENS * ROWS * manifest.model.vocab_size * 4
    pixels = 3 * manifest.image.size**2 * 4
    assert pixels < moved["to_device_bytes"] < pixels + 4096
    cache = 2 * manifest.cache.layers * manifest.cache.heads * manifest.cache.head_dim * 2
    prefix = ROWS * manifest.image.tokens * cache
    assert moved["to_device_bytes"] - pixels < prefix / 4
    if precision != "fp32":  # whose cache grows, by copies on the device
        features = ROWS * manifest.image.tokens * manifest.model.hidden_size * 4
        assert moved["on_device_bytes"] < 2 * features


@pytest.mark.parametrize("precision", ["bf16", "int4-bf16", "fp32"])
def test_weights_are_there_once(gpu_python: FakeCuda, cuda_bundle: Bundles, precision: str) -> None:
    """Prefill and decode read the same memory."""
    bundle = cuda_bundle(CASE, precision)
    weights = sum((bundle / f"{name}.data").stat().st_size for name in ("vision_encoder", "decoder"))
    loaded = asked(gpu_python, bundle, 0, 1, 1)["loaded"]["live_bytes"][0]
    decoder = (bundle / "decoder.data").stat().st_size
    assert weights <= loaded < weights + decoder / 2


def test_a_thousand_requests_leave_nothing(gpu_python: FakeCuda, cuda_bundle: Bundles) -> None:
    found = asked(gpu_python, cuda_bundle(CASE, "bf16"), 1000, 3, ROWS)
    live = np.array([found[str(count)]["live_bytes"] for count in range(1000)])
    assert len(set(live[10:])) == 1
    taken = {found[str(count)]["mallocs"] - found[str(count)]["frees"] for count in range(10, 1000)}
    assert taken == {0}
    assert sum(found[str(count)]["captures"] for count in range(1000)) == 1


THREADS = (
    COUNTING
    + """
import json
from concurrent.futures import ThreadPoolExecutor
from paligemma_onnx.runtime import PaliGemma, Request
model = PaliGemma.load(sys.argv[1], device="cuda")
def ask(rows):
    answers = model.generate_batch([Request(sys.argv[2], "caption en")] * rows, max_new_tokens=5)
    return [len(answer.token_ids) for answer in answers]
with ThreadPoolExecutor(6) as threads:
    answered = list(threads.map(ask, [1, 2, 3, 4] * 6))
print(json.dumps({"answered": answered, "captures": counts()["captures"]}))
"""
)


def test_threads_ask_at_once(gpu_python: FakeCuda, cuda_bundle: Bundles) -> None:
    """Several threads use the device at once; the fake CUDA runtime refuses calls during a capture."""
    asking = (THREADS, cuda_bundle(CASE, "bf16"), ROOT / "export" / "demo" / "scene.png")
    ended = gpu_python.script(*asking, FAKE_CUDA_CAPTURE=50_000)
    assert (ended.code, ended.err) == (0, ""), ended.err
    found = json.loads(ended.out)
    assert found["answered"] == [[5] * rows for rows in [1, 2, 3, 4] * 6]
    assert 4 <= found["captures"] <= 16


INTERRUPTED = (
    COUNTING
    + """
import json, signal, threading
from paligemma_onnx.runtime import PaliGemma
model = PaliGemma.load(sys.argv[1], device="cuda")
def interrupt():
    while not counts()["captures"]:
        pass
    signal.raise_signal(signal.SIGINT)
threading.Thread(target=interrupt).start()
try:
    model.generate(sys.argv[2], "caption en", max_new_tokens=5)
    ended = "answered"
except KeyboardInterrupt:
    ended = "interrupted"
again = [len(model.generate(sys.argv[2], "caption en", max_new_tokens=5).token_ids) for _ in range(2)]
before = counts()["live_bytes"][0]
del model
print(json.dumps({"ended": ended, "again": again, "held": before, "left": counts()["live_bytes"][0]}))
"""
)


def test_an_interrupt_while_a_step_is_recorded(gpu_python: FakeCuda, cuda_bundle: Bundles) -> None:
    """The recording is waited for, so the next request finds the GPU as it should be."""
    asking = (INTERRUPTED, cuda_bundle(CASE, "bf16"), ROOT / "export" / "demo" / "scene.png")
    ended = gpu_python.script(*asking, FAKE_CUDA_CAPTURE=300_000)
    assert (ended.code, ended.err) == (0, ""), ended.err
    found = json.loads(ended.out)
    assert (found["ended"], found["again"]) == ("interrupted", [5, 5])
    assert found["left"] < found["held"] / 10  # and a model that is let go leaves nothing


def test_a_gpu_without_bfloat16(gpu_python: FakeCuda, cuda_bundle: Bundles) -> None:
    picture = ROOT / "export" / "demo" / "scene.png"

    def asked_on(precision: str) -> tuple[int, str]:
        bundle = cuda_bundle(CASE, precision)
        asking = ("generate", "--model", bundle, "--image", picture, "--max-new-tokens", 2, "caption en")
        ended = gpu_python.command(*asking, FAKE_CUDA_COMPUTE=75)
        return ended.code, ended.err

    code, words = asked_on("bf16")
    assert code == 4
    assert "has compute capability 7.5, bfloat16 needs 8.0; export again with --precision fp16" in words
    assert asked_on("fp16") == (0, "")
