"""The check's sessions: one open at a time, each opened when its turn comes."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paligemma_onnx.export.validation import one_session_at_a_time as turns
from paligemma_onnx.runtime.bundle.manifest import read_manifest
from paligemma_onnx.runtime.cancellation import Cancellation
from paligemma_onnx.runtime.engine.devices import choose_placement
from paligemma_onnx.runtime.engine.session import open_session
from paligemma_onnx.runtime.graphs.onnx_runner import OnnxModelRunner

NEVER = Cancellation()
CASE = "gemma_one_kv_head"


def answers(runner: OnnxModelRunner) -> list[np.ndarray]:
    """What each graph gives, changing between them more often than a check does."""
    facts = runner.manifest
    pixels = np.zeros((1, 3, facts.image.size, facts.image.size), dtype=np.float32)
    ids, lengths = np.array([[2, 5, 108]]), np.array([3])
    found = []
    for _ in range(2):
        found.append(runner.encode_image(pixels, NEVER))
        logits, cache = runner.prefill(ids, found[-1], lengths, facts.image.tokens + 8, NEVER)
        found.append(logits)
        for token in (7, 300):
            logits, cache = runner.decode(np.array([[token]]), cache, NEVER)
            found.append(logits)
    return found


@pytest.mark.parametrize(("precision", "opened"), [("int4", 6), ("int8", 4), ("fp32", 6)])
def test_one_at_a_time(
    bundle: Callable[[str], Path],
    rounded: Callable[[str, str], Path],
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    opened: int,
) -> None:
    """The same answers; a cache outlives the session that made it."""
    folder = bundle(CASE) if precision == "fp32" else rounded(CASE, precision)
    manifest, sessions = read_manifest(folder), list[weakref.ref[Any]]()

    def noted(*args: Any) -> Any:
        gc.collect()
        assert not any(session() for session in sessions), "the one before is still there"
        session = open_session(*args)
        # What the engine hands out keeps its inner session and all weights in memory. A cache that grows is
        # handed out; one in place is our own, so nothing may be left of the session before.
        sessions.append(weakref.ref(session if precision == "fp32" else session._sess))
        return session

    monkeypatch.setattr(turns, "open_session", noted)
    found = answers(turns.open_by_turns(folder, manifest, choose_placement("cpu", None)))
    expected = answers(OnnxModelRunner.open(folder, manifest, choose_placement("cpu", None)))
    assert all(map(np.array_equal, found, expected))
    assert len(sessions) == opened
