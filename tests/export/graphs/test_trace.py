"""Exports that really trace: the same bytes from another process, and a wrong graph refused."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cached_traces import graphs_of
from exporting import Silent

from paligemma_onnx.export import exporter
from paligemma_onnx.export.exporter import ExportRequest, export
from paligemma_onnx.export.graphs.specs import GraphDefinition
from paligemma_onnx.export.graphs.trace import Traced, trace
from paligemma_onnx.export.source import Source
from paligemma_onnx.export.validation.self_check import self_check
from paligemma_onnx.model.config import PaliGemmaConfig
from paligemma_onnx.model.paligemma import PaliGemma
from paligemma_onnx.model.skeleton import meta_model
from paligemma_onnx.runtime.bundle.schema import Manifest
from paligemma_onnx.runtime.errors import MismatchError

Folders = Callable[[str], Path]
CASE = "gemma_one_kv_head"


@pytest.fixture(scope="module", autouse=True)
def other_process(
    checkpoint: Folders, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    """The command line's export in a process with another hash seed, beside the other tests."""
    output = tmp_path_factory.mktemp("other") / "bundle"
    command = "from paligemma_onnx.runtime.cli.main import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", command, "export", str(checkpoint(CASE)), "--output", str(output)],
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
    bundle: Folders,
    tmp_path: Path,
    graph: str,
    change: Callable[[PaliGemmaConfig], PaliGemmaConfig],
    complaint: str,
) -> None:
    """Traced from a model whose cap is 4.2 instead of 4, or whose window is 6 tokens instead of 5."""
    right = graphs_of(bundle("gemma2_window"))

    def wrong(verb: GraphDefinition, model: PaliGemma) -> Traced:
        return (
            trace(verb, meta_model(change(model.config))) if verb.spec.file == graph else right(verb, model)
        )

    monkeypatch.setattr(exporter, "trace", wrong)

    def check(folder: Path, manifest: Manifest, source: Source) -> None:
        self_check(folder, manifest, source, lambda _: None)

    with pytest.raises(MismatchError, match=complaint):
        export(ExportRequest(checkpoint("gemma2_window"), tmp_path / "bundle"), Silent(), check)
    assert list(tmp_path.iterdir()) == []


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_another_process_writes_the_same_bytes(
    bundle: Folders, other_process: tuple[Path, subprocess.Popen[bytes]]
) -> None:
    output, process = other_process
    assert process.wait(timeout=300) == 0
    assert contents(output) == contents(bundle(CASE))
    assert [entry.name for entry in output.parent.iterdir()] == ["bundle"]
