"""The comparison of runtimes on the layouts of other tools."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from command_line import run_in_process
from damage import copy_folder, flip_bit

from paligemma_onnx.runtime import PaliGemma
from paligemma_onnx.runtime.cli import conformance as command
from paligemma_onnx.runtime.conformance.adapters import ADAPTERS
from paligemma_onnx.runtime.conformance.compare import Settings, compare_runtimes
from paligemma_onnx.runtime.conformance.graph_set import read_graph_set
from paligemma_onnx.runtime.conformance.requests import PROMPTS, draw_scene

pytestmark = pytest.mark.slow

Layout = Callable[[str, str, str], Path]
CASE = "gemma2_window"
TOKENS = 6
INSTALLED = tuple(adapter for adapter in ADAPTERS if adapter.name in ("onnx", "openvino"))
TRACT = tuple(adapter for adapter in ADAPTERS if adapter.name == "tract" and find_spec("tract"))


@pytest.mark.parametrize("kind", ["transformers.js", "genai"])
def test_ids_are_those_of_the_bundle(layout: Layout, bundle: Callable[[str], Path], kind: str) -> None:
    """The graphs answer as the decode loop of this package does, with longer texts than the window."""
    settings = Settings((), PROMPTS[:2], TOKENS, Path())
    graph_set = read_graph_set(layout(CASE, kind, "fp32"), None)
    result = compare_runtimes(graph_set, INSTALLED + TRACT, settings, "a machine", lambda _: None)
    model = PaliGemma.load(bundle(CASE), device="cpu")
    stop = set(model.manifest.tokens.stop)
    for prompt, ids in zip(settings.prompts, result.ids, strict=True):
        answer = model.generate(draw_scene(), prompt, max_new_tokens=TOKENS + 1)
        assert tuple(each for each in ids if each not in stop) == tuple(answer.token_ids)
    assert (result.layout, result.precision, result.limit) == (kind, "fp32", 1e-4)
    expected = {("prefill", "logits"), ("prefill", "cache")}
    expected |= {(f"step.{n}", output) for n in range(TOKENS) for output in ("logits", "cache")}
    for runtime in result.runtimes:
        assert result.outcome(runtime) == "agrees", runtime
        graphs = {graph.graph: graph for graph in runtime.graphs}
        assert list(graphs) == ["vision_encoder", "embedding", "decoder"]
        assert {(error.step, error.output) for error in graphs["decoder"].errors} == expected
        assert graphs["decoder"].worst > 0


def test_dtype(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reference evaluator has no MatMulNBits."""
    monkeypatch.setattr(command, "ADAPTERS", INSTALLED)
    folder = copy_folder(layout(CASE, "transformers.js", "q4"), tmp_path / "model")
    options = ["--tokens", "1", "--prompt", "caption en"]
    result = run_in_process(capsys, "conformance", folder, *options, "--dtype", "q4", "--json")
    assert result.code == 0
    data = json.loads(result.out)
    assert (data["layout"], data["precision"], data["limit"]) == ("transformers.js", "q4", 0.1)
    reference, openvino = data["runtimes"]
    assert (reference["outcome"], openvino["outcome"]) == ("incomplete", "agrees")
    missing = {graph["graph"]: graph["missing_operators"] for graph in reference["graphs"]}
    assert missing["decoder"] == ["MatMulNBits"]
    result = run_in_process(capsys, "conformance", folder, *options, "--dtype", "fp32")
    assert result.code == 2
    assert "has no files of dtype 'fp32'; choose from q4" in result.err
    flip_bit(folder / "onnx" / "decoder_model_merged_q4.onnx_data")
    result = run_in_process(capsys, "conformance", folder, *options)
    assert result.code == 4
    assert "decoder_model_merged_q4.onnx_data is altered" in result.err


def test_a_bundle_has_no_dtype(bundle: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    result = run_in_process(capsys, "conformance", bundle(CASE), "--dtype", "q4")
    assert result.code == 2
    assert "--dtype is for layouts" in result.err
