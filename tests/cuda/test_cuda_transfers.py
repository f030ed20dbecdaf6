"""Copies and memory of requests on a GPU: the cache is never copied, and no memory is left."""

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
bundle, image, times, tokens, rows = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
model = PaliGemma.load(bundle, device="cuda")
result = {"loaded": counts()}
for count in range(times):
    before = counts()
    prompts = ["caption en", "answer en what is in the image?"][:rows]
    model.generate_batch([Request(image, prompt) for prompt in prompts], max_new_tokens=tokens)
    after = counts()
    moved = {name: after[name] - before[name] for name in after if not isinstance(after[name], list)}
    result[str(count)] = moved | {"live_bytes": after["live_bytes"][0]}
print(json.dumps(result))
"""
)


def run_requests(fake_cuda: FakeCuda, bundle: Path, times: int, tokens: int, rows: int) -> dict[str, Any]:
    image = ROOT / "export" / "demo" / "scene.png"
    result = fake_cuda.script(REQUESTS, bundle, image, times, tokens, rows)
    assert (result.code, result.err) == (0, ""), result.err
    return json.loads(result.out)  # type: ignore[no-any-return]


@pytest.mark.parametrize("precision", ["bf16", "int4-bf16", "fp32"])
def test_only_logits_are_copied_to_the_host(
    gpu_python: FakeCuda, cuda_bundle: Bundles, precision: str
) -> None:
    """To the host: logits of each token. To the GPU: pixels, prompts, and per step a token and a length."""
    bundle = cuda_bundle(CASE, precision)
    manifest = read_manifest(bundle)
    moved = run_requests(gpu_python, bundle, 2, TOKENS, ROWS)["1"]
    assert moved["to_host_bytes"] == TOKENS * ROWS * manifest.model.vocab_size * 4
    pixels = 3 * manifest.image.size**2 * 4
    assert pixels < moved["to_device_bytes"] < pixels + 4096
    cache = 2 * manifest.cache.layers * manifest.cache.heads * manifest.cache.head_dim * 2
    prefix = ROWS * manifest.image.tokens * cache
    assert moved["to_device_bytes"] - pixels < prefix / 4
    if precision != "fp32":  # its cache grows, by copies on the device
        features = ROWS * manifest.image.tokens * manifest.model.hidden_size * 4
        assert moved["on_device_bytes"] < 2 * features


@pytest.mark.parametrize("precision", ["bf16", "int4-bf16", "fp32"])
def test_weights_are_there_once(gpu_python: FakeCuda, cuda_bundle: Bundles, precision: str) -> None:
    """Prefill and decode share the weights."""
    bundle = cuda_bundle(CASE, precision)
    weights = sum((bundle / f"{name}.data").stat().st_size for name in ("vision_encoder", "decoder"))
    loaded = run_requests(gpu_python, bundle, 0, 1, 1)["loaded"]["live_bytes"][0]
    decoder = (bundle / "decoder.data").stat().st_size
    assert weights <= loaded < weights + decoder / 2


def test_a_thousand_requests_leave_nothing(gpu_python: FakeCuda, cuda_bundle: Bundles) -> None:
    counters = run_requests(gpu_python, cuda_bundle(CASE, "bf16"), 1000, 3, ROWS)
    live = np.array([counters[str(count)]["live_bytes"] for count in range(1000)])
    assert len(set(live[10:])) == 1
    allocated = {counters[str(count)]["mallocs"] - counters[str(count)]["frees"] for count in range(10, 1000)}
    assert allocated == {0}
    assert sum(counters[str(count)]["captures"] for count in range(1000)) == 1


THREADS = (
    COUNTING
    + """
import json
from concurrent.futures import ThreadPoolExecutor
from paligemma_onnx.runtime import PaliGemma, Request
model = PaliGemma.load(sys.argv[1], device="cuda")
def generate(rows):
    answers = model.generate_batch([Request(sys.argv[2], "caption en")] * rows, max_new_tokens=5)
    return [len(answer.token_ids) for answer in answers]
with ThreadPoolExecutor(6) as threads:
    answered = list(threads.map(generate, [1, 2, 3, 4] * 6))
print(json.dumps({"answered": answered, "captures": counts()["captures"]}))
"""
)


def test_threads_ask_at_once(gpu_python: FakeCuda, cuda_bundle: Bundles) -> None:
    """Several threads use the device at once; the fake CUDA runtime refuses calls during a capture."""
    script = (THREADS, cuda_bundle(CASE, "bf16"), ROOT / "export" / "demo" / "scene.png")
    result = gpu_python.script(*script, FAKE_CUDA_CAPTURE=50_000)
    assert (result.code, result.err) == (0, ""), result.err
    output = json.loads(result.out)
    assert output["answered"] == [[5] * rows for rows in [1, 2, 3, 4] * 6]
    assert 4 <= output["captures"] <= 16


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
    # Long enough for the thread to run on a busy machine.
    model.generate(sys.argv[2], "caption en", max_new_tokens=100)
    ended = "answered"
except KeyboardInterrupt:
    ended = "interrupted"
again = [len(model.generate(sys.argv[2], "caption en", max_new_tokens=5).token_ids) for _ in range(2)]
before = counts()["live_bytes"][0]
del model
print(json.dumps({"ended": ended, "again": again, "before": before, "after": counts()["live_bytes"][0]}))
"""
)


def test_an_interrupt_during_a_capture(gpu_python: FakeCuda, cuda_bundle: Bundles) -> None:
    """The capture is completed before the interrupt is raised, so the next request succeeds."""
    script = (INTERRUPTED, cuda_bundle(CASE, "bf16"), ROOT / "export" / "demo" / "scene.png")
    result = gpu_python.script(*script, FAKE_CUDA_CAPTURE=300_000)
    assert (result.code, result.err) == (0, ""), result.err
    output = json.loads(result.out)
    assert (output["ended"], output["again"]) == ("interrupted", [5, 5])
    assert output["after"] < output["before"] / 10  # deleting the model frees its memory


def test_a_gpu_without_bfloat16(gpu_python: FakeCuda, cuda_bundle: Bundles) -> None:
    image = ROOT / "export" / "demo" / "scene.png"

    def generate_with(precision: str) -> tuple[int, str]:
        bundle = cuda_bundle(CASE, precision)
        command = ("generate", "--model", bundle, "--image", image, "--max-new-tokens", 2, "caption en")
        result = gpu_python.command(*command, FAKE_CUDA_COMPUTE=75)
        return result.code, result.err

    code, words = generate_with("bf16")
    assert code == 4
    assert "has compute capability 7.5, bfloat16 needs 8.0; export again with --precision fp16" in words
    assert generate_with("fp16") == (0, "")
