"""Decode steps on a GPU are captured as CUDA graphs and replayed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_cuda import COUNTING, ROOT, FakeCuda

CASE = "gemma2_window"
TOKENS = 6

REQUESTS = (
    COUNTING
    + """
import json
from paligemma_onnx.runtime import PaliGemma, Request
model = PaliGemma.load(sys.argv[1], device="cuda")
counters = []
for rows in (1, 1, 2, 1):
    before = counts()
    requests = [Request(sys.argv[2], "caption en")] * rows
    answers = model.generate_batch(requests, max_new_tokens=int(sys.argv[3]))
    assert {len(answer.token_ids) for answer in answers} == {int(sys.argv[3])}
    after = counts()
    counters.append({name: after[name] - before[name] for name in after if not isinstance(after[name], list)})
print(json.dumps(counters))
"""
)


@pytest.mark.parametrize("precision", ["bf16", "fp16", "int4-bf16"])
def test_a_step_is_captured_once(
    gpu_python: FakeCuda, cuda_bundle: Callable[[str, str], Path], precision: str
) -> None:
    result = gpu_python.script(
        REQUESTS, cuda_bundle(CASE, precision), ROOT / "export" / "demo" / "scene.png", TOKENS
    )
    assert (result.code, result.err) == (0, "")
    first, second, wider, third = json.loads(result.out)
    # Prefill computes the first token; a captured graph is launched at once.
    assert [request["captures"] for request in (first, second, wider, third)] == [1, 0, 1, 0]
    assert [request["graph_launches"] for request in (first, second, wider, third)] == [TOKENS - 1] * 4
    assert first["captured_launches"] > 10
    assert second["launches"] < first["launches"]
    # A replayed step reads a token and a length per row, and returns logits.
    assert second["to_host"] <= TOKENS + 1
    same = ("launches", "to_device_bytes", "to_host_bytes", "on_device_bytes")
    assert [second[name] for name in same] == [third[name] for name in same]
