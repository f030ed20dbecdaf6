"""Runner of the validation: one session is open at a time, and each is opened when its graph runs."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import InferenceSession as NativeSession

from paligemma_onnx.export.source import open_source
from paligemma_onnx.export.validation import validate
from paligemma_onnx.export.validation.self_check import self_check
from paligemma_onnx.export.validation.sequential_sessions import graph_opener, open_sequentially
from paligemma_onnx.runtime.bundle.manifest import read_manifest
from paligemma_onnx.runtime.bundle.schema import GraphSpec
from paligemma_onnx.runtime.cancellation import Cancellation
from paligemma_onnx.runtime.engine.devices import choose_placement
from paligemma_onnx.runtime.graphs.onnx_runner import OnnxModelRunner

pytestmark = pytest.mark.slow

NEVER = Cancellation()
CASE = "gemma_one_kv_head"


def run_graphs(runner: OnnxModelRunner) -> list[np.ndarray]:
    """Return outputs of calls that change the graph more often than a validation does."""
    facts = runner.manifest
    pixels = np.zeros((1, 3, facts.image.size, facts.image.size), dtype=np.float32)
    ids, lengths = np.array([[2, 5, 108]]), np.array([3])
    outputs = []
    for _ in range(2):
        outputs.append(runner.encode_image(pixels, NEVER))
        logits, cache = runner.prefill(ids, outputs[-1], lengths, facts.image.tokens + 8, NEVER)
        outputs.append(logits)
        for token in (7, 300):
            logits, cache = runner.decode(np.array([[token]]), cache, NEVER)
            outputs.append(logits)
    return outputs


def native(session: Any) -> Any:
    """Return the C++ session inside of onnxruntime's Python session."""
    (inner,) = (value for value in vars(session).values() if isinstance(value, NativeSession))
    return inner


@pytest.mark.parametrize(("precision", "opened"), [("int4", 6), ("int8", 4), ("fp32", 6)])
def test_one_at_a_time(
    bundle: Callable[[str], Path],
    rounded: Callable[[str, str], Path],
    precision: str,
    opened: int,
) -> None:
    """Outputs equal those of all sessions open at once; a cache outlives the session that made it."""
    folder = bundle(CASE) if precision == "fp32" else rounded(CASE, precision)
    manifest, placement = read_manifest(folder), choose_placement("cpu", None)
    open_graph, sessions = graph_opener(folder, manifest, placement), list[weakref.ref[Any]]()

    def open_and_track(graph: GraphSpec) -> Any:
        gc.collect()
        assert not any(session() for session in sessions), "the session before is still open"
        session = open_graph(graph)
        # Outputs that onnxruntime allocates keep the C++ session and all weights in memory. In fp32 the cache
        # is such an output; in the others the runtime allocates it, so the C++ session must be gone, too.
        sessions.append(weakref.ref(session if precision == "fp32" else native(session)))
        return session

    actual = run_graphs(open_sequentially(manifest, placement, open_and_track))
    expected = run_graphs(OnnxModelRunner.open(folder, manifest, placement))
    assert all(map(np.array_equal, actual, expected))
    assert len(sessions) == opened


def test_a_comparison_frees_prefill_before_it_opens_decode(
    bundle: Callable[[str], Path], checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A growing cache is an output of onnxruntime, which keeps the weights of the session that made it."""
    folder, sessions = bundle(CASE), list[weakref.ref[Any]]()
    manifest = read_manifest(folder)

    def tracking_opener(*arguments: Any) -> Callable[[GraphSpec], Any]:
        def open_and_track(graph: GraphSpec) -> Any:
            gc.collect()
            assert not any(session() for session in sessions)
            session = graph_opener(*arguments)(graph)
            sessions.append(weakref.ref(native(session)))
            return session

        return open_and_track

    monkeypatch.setattr(validate, "graph_opener", tracking_opener)
    assert self_check(folder, manifest, open_source(checkpoint(CASE)), lambda _: None).passed
    assert len(sessions) == 3
