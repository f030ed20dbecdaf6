"""Exports that trace instead of reading cached graphs: reproducible bytes, and wrong graphs are detected."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cached_traces import trace_with_cache
from command_line import MAIN
from exporting import export_bundle
from time_limits import HANG

from paligemma_onnx.export import exporter
from paligemma_onnx.export.graphs.specs import GraphDefinition
from paligemma_onnx.export.graphs.trace import TracedGraph, trace
from paligemma_onnx.model.config import PaliGemmaConfig
from paligemma_onnx.model.paligemma import PaliGemma
from paligemma_onnx.model.skeleton import meta_model
from paligemma_onnx.runtime.errors import MismatchError

pytestmark = pytest.mark.slow

Folders = Callable[[str], Path]
CASE = "gemma_one_kv_head"


@pytest.fixture(scope="module", autouse=True)
def other_process(
    checkpoint: Folders, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    """An export by another process with another hash seed; it runs while the other tests do."""
    output = tmp_path_factory.mktemp("other") / "bundle"
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, "export", str(checkpoint(CASE)), "--output", str(output)],
        env=os.environ | {"PYTHONHASHSEED": "12345"},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    yield output, process
    process.kill()
    process.wait()


def attention_cap(config: PaliGemmaConfig) -> PaliGemmaConfig:
    return replace(config, text_config=replace(config.text_config, attn_logit_softcapping=4.2))


def window(config: PaliGemmaConfig) -> PaliGemmaConfig:
    return replace(config, text_config=replace(config.text_config, sliding_window=6))


@pytest.mark.parametrize(
    ("graph", "change", "complaint"),
    [
        ("prefill.onnx", attention_cap, r"prefill \S+ is off by"),
        ("decode.onnx", window, r"step\.\d \S+ is off by"),
    ],
)
def test_a_wrong_graph_is_found(
    monkeypatch: pytest.MonkeyPatch,
    checkpoint: Folders,
    trace_cache: Path,
    tmp_path: Path,
    graph: str,
    change: Callable[[PaliGemmaConfig], PaliGemmaConfig],
    complaint: str,
) -> None:
    """Trace one graph from a model with a cap of 4.2 instead of 4 or a window of 6 tokens instead of 5."""
    trace_correctly = trace_with_cache(trace_cache)

    def trace_wrongly(definition: GraphDefinition, model: PaliGemma) -> TracedGraph:
        if definition.spec.file == graph:
            return trace(definition, meta_model(change(model.config)))
        return trace_correctly(definition, model)

    monkeypatch.setattr(exporter, "trace", trace_wrongly)
    with pytest.raises(MismatchError, match=complaint):
        export_bundle(checkpoint("gemma2_window"), tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_another_process_writes_the_same_bytes(
    bundle: Folders, other_process: tuple[Path, subprocess.Popen[bytes]]
) -> None:
    """Also shows that graphs from the cache, which `bundle` uses, equal traced ones."""
    output, process = other_process
    assert process.wait(timeout=HANG) == 0
    assert contents(output) == contents(bundle(CASE))
    assert [entry.name for entry in output.parent.iterdir()] == ["bundle"]
