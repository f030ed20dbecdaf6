"""Steps on a GPU are recorded once and played back (see fake_cuda.py, which counts them)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_cuda import COUNTING, ROOT, FakeCuda

CASE = "gemma2_window"
TOKENS = 6

ANSWER = (
    COUNTING
    + """
import json
from paligemma_onnx.runtime import PaliGemma, Request
model = PaliGemma.load(sys.argv[1], device="cuda")
found = []
for rows in (1, 1, 2, 1):
    before = counts()
    asked = [Request(sys.argv[2], "caption en")] * rows
    answers = model.generate_batch(asked, max_new_tokens=int(sys.argv[3]))
    assert {len(answer.token_ids) for answer in answers} == {int(sys.argv[3])}
    after = counts()
    found.append({name: after[name] - before[name] for name in after if not isinstance(after[name], list)})
print(json.dumps(found))
"""
)


@pytest.mark.parametrize("precision", ["bf16", "fp16", "int4-bf16"])
def test_a_step_is_recorded_once(
    gpu_python: FakeCuda, cuda_bundle: Callable[[str, str], Path], precision: str
) -> None:
    ended = gpu_python.script(
        ANSWER, cuda_bundle(CASE, precision), ROOT / "export" / "demo" / "scene.png", TOKENS
    )
    assert (ended.code, ended.err) == (0, "")
    first, second, wider, third = json.loads(ended.out)
    # The first token is prefill's; a recording is played at once, too.
    assert [one["captures"] for one in (first, second, wider, third)] == [1, 0, 1, 0]
    assert [one["graph_launches"] for one in (first, second, wider, third)] == [TOKENS - 1] * 4
    assert first["captured_launches"] > 10
    assert second["launches"] < first["launches"]
    # A step that is played back takes a token and a length of each row, and gives scores.
    assert second["to_host"] <= TOKENS + 1
    same = ("launches", "to_device_bytes", "to_host_bytes", "on_device_bytes")
    assert [second[name] for name in same] == [third[name] for name in same]
