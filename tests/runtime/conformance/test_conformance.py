"""The comparison of runtimes: two real runtimes, and fake ones with planted errors."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
from command_line import run_in_process

from paligemma_onnx.runtime import PaliGemma
from paligemma_onnx.runtime.bundle.manifest import read_manifest
from paligemma_onnx.runtime.bundle.schema import GraphSpec
from paligemma_onnx.runtime.cli import conformance as command
from paligemma_onnx.runtime.conformance.adapters import ADAPTERS
from paligemma_onnx.runtime.conformance.compare import Settings, compare_runtimes, output_errors
from paligemma_onnx.runtime.conformance.graph_set import read_graph_set
from paligemma_onnx.runtime.conformance.interface import (
    Adapter,
    Arrays,
    Engine,
    Graph,
    GraphError,
    NotInstalledError,
)
from paligemma_onnx.runtime.conformance.onnxruntime_cpu import start_reference
from paligemma_onnx.runtime.conformance.requests import PROMPTS, draw_scene
from paligemma_onnx.runtime.conformance.results import Conformance, GraphResult, RuntimeResult

Folders = Callable[[str], Path]
Rounded = Callable[[str, str], Path]
TOKENS = 3
INSTALL = "install fake"


def compare(
    bundle: Path, adapters: Sequence[Adapter], prompts: tuple[str, ...] = ("caption en",)
) -> Conformance:
    settings = Settings((), prompts, TOKENS, Path())
    return compare_runtimes(read_graph_set(bundle, None), adapters, settings, "a machine", lambda _: None)


def graphs_of(result: RuntimeResult) -> dict[str, GraphResult]:
    return {graph.graph: graph for graph in result.graphs}


def fake(bundle: Path, change: Callable[[GraphSpec, dict[str, np.ndarray]], object]) -> Adapter:
    """Return a runtime that computes with onnxruntime and then changes the outputs."""

    def start(_packages: Path) -> AbstractContextManager[Engine]:
        @contextmanager
        def started() -> Iterator[Engine]:
            with start_reference(read_manifest(bundle)) as engine:

                def open_graph(path: Path, spec: GraphSpec) -> Graph:
                    graph = engine.open_graph(path, spec)

                    def run(inputs: Arrays) -> Arrays:
                        outputs = {name: array.copy() for name, array in graph(inputs).items()}
                        change(spec, outputs)
                        return outputs

                    return run

                yield Engine("7.1", open_graph)

        return started()

    return Adapter("fake", INSTALL, start)


def test_reference_evaluator_and_openvino_agree_on_the_shipped_model(shipped_bundle: Path) -> None:
    installed = [adapter for adapter in ADAPTERS if adapter.name in ("onnx", "openvino")]
    result = compare(shipped_bundle, installed, PROMPTS[:2])
    for runtime in result.runtimes:
        assert result.outcome(runtime) == "agrees", runtime
        assert runtime.version
        assert runtime.ids == result.ids
        graphs = graphs_of(runtime)
        assert {"vision_encoder", "prefill", "decode", "mask_decoder"} == set(graphs)
        steps = {(error.step, error.output) for error in graphs["decode"].errors}
        assert steps == {(f"step.{n}", output) for n in range(TOKENS) for output in ("logits", "cache")}
        assert 0 < graphs["decode"].worst <= 1e-4
        assert all(graph.open_s and graph.run_s for graph in runtime.graphs)


@pytest.mark.parametrize("fixture", ["shipped_bundle", "in_place_bundle"])
def test_ids_are_those_of_the_decode_loop(fixture: str, request: pytest.FixtureRequest) -> None:
    folders = request.getfixturevalue(fixture)
    bundle = folders if isinstance(folders, Path) else folders("gemma2_window")
    adapter = fake(bundle, lambda *_: None)
    result = compare(bundle, [adapter], PROMPTS)
    model = PaliGemma.load(bundle, device="cpu")
    stop = set(model.manifest.tokens.stop)
    for prompt, ids in zip(PROMPTS, result.ids, strict=True):
        answer = model.generate(draw_scene(), prompt, max_new_tokens=TOKENS + 1)
        assert tuple(each for each in ids if each not in stop) == tuple(answer.token_ids)
    (runtime,) = result.runtimes
    assert result.outcome(runtime) == "agrees"
    assert all(graph.worst == 0 for graph in runtime.graphs)


def test_a_planted_error_is_reported_where_it_is(shipped_bundle: Path) -> None:
    def change(spec: GraphSpec, outputs: dict[str, np.ndarray]) -> None:
        if spec.file == "decode.onnx":
            value = outputs["present.1.value"]
            value.flat[5] += 0.01 * np.abs(value).max()

    result = compare(shipped_bundle, [fake(shipped_bundle, change)])
    (runtime,) = result.runtimes
    assert result.outcome(runtime) == "differs"
    graphs = graphs_of(runtime)
    assert graphs["prefill"].worst == graphs["vision_encoder"].worst == 0
    errors = {error.output: error.relative for error in graphs["decode"].errors if error.step == "step.1"}
    assert errors == {"logits": 0, "cache": pytest.approx(0.01, rel=1e-3)}


@pytest.mark.parametrize("damage", ["nan", "shape", "absent"])
def test_an_output_that_cannot_be_compared_differs(damage: str) -> None:
    expected = {"logits": np.ones((1, 4), np.float32)}
    actual = {"logits": np.ones((1, 4), np.float32)}
    if damage == "nan":
        actual["logits"][0, 2] = np.nan
    elif damage == "shape":
        actual["logits"] = actual["logits"][0]
    else:
        del actual["logits"]
    assert output_errors(actual, expected) == {"logits": float("inf")}


def test_other_ids_differ_in_float32(shipped_bundle: Path) -> None:
    """Logits that are within the limit, but lead to another token."""
    calls = []

    def change(_spec: GraphSpec, outputs: dict[str, np.ndarray]) -> None:
        if "logits" in outputs:
            calls.append(1)
            if len(calls) > 1 + TOKENS:  # after the runs on the reference's inputs
                outputs["logits"][:] = -outputs["logits"]

    result = compare(shipped_bundle, [fake(shipped_bundle, change)])
    (runtime,) = result.runtimes
    assert all(graph.worst == 0 for graph in runtime.graphs)
    assert result.equal_ids(runtime) == 0
    assert result.outcome(runtime) == "differs"


def test_missing_operators_are_named_and_the_other_graphs_run(shipped_bundle: Path) -> None:
    def change(spec: GraphSpec, _outputs: dict[str, np.ndarray]) -> None:
        if spec.file == "prefill.onnx":
            raise GraphError("cannot convert: ai.onnx.Gemm (node /layers.0/MatMul)")

    result = compare(shipped_bundle, [fake(shipped_bundle, change)])
    (runtime,) = result.runtimes
    graphs = graphs_of(runtime)
    assert graphs["prefill"].missing_operators == ("Gemm",)
    assert graphs["prefill"].problem == "cannot convert: ai.onnx.Gemm (node /layers.0/MatMul)"
    assert graphs["decode"].errors
    assert graphs["decode"].problem is None
    assert runtime.ids is None
    assert result.outcome(runtime) == "incomplete"


def test_openvino_names_the_operators_of_an_in_place_decoder(rounded: Rounded) -> None:
    (openvino,) = (adapter for adapter in ADAPTERS if adapter.name == "openvino")
    (runtime,) = compare(rounded("gemma_one_kv_head", "int8"), [openvino]).runtimes
    graphs = graphs_of(runtime)
    assert set(graphs["decode"].missing_operators) == {"TensorScatter", "RotaryEmbedding", "Attention"}
    assert graphs["vision_encoder"].problem is None


@contextmanager
def not_installed(_packages: Path) -> Iterator[Engine]:
    raise NotInstalledError("the Python package fake")
    yield


@contextmanager
def broken(_packages: Path) -> Iterator[Engine]:
    raise OSError("no such device")
    yield


@pytest.mark.parametrize(
    ("start", "options", "code", "outcome", "line"),
    [
        (not_installed, (), 0, "not installed", "fake: the Python package fake is not installed; "),
        (not_installed, ("--runtime", "fake"), 4, "not installed", f"install it with `{INSTALL}`"),
        (broken, (), 0, "incomplete", "fake: does not start: no such device"),
        (broken, ("--runtime", "fake"), 6, "incomplete", "fake: does not start: no such device"),
    ],
)
def test_a_runtime_that_does_not_start_is_listed(
    start: Callable[[Path], AbstractContextManager[Engine]],
    options: tuple[str, ...],
    code: int,
    outcome: str,
    line: str,
    shipped_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(command, "ADAPTERS", (Adapter("fake", INSTALL, start),))
    option = next(param for param in command.conformance.params if param.name == "runtime")
    monkeypatch.setattr(option, "type", type(option.type)(["fake"]))
    arguments = ("conformance", str(shipped_bundle), "--tokens", "1", "--prompt", "caption en", *options)
    result = run_in_process(capsys, *arguments)
    assert result.code == code
    assert line in result.out
    data = json.loads(run_in_process(capsys, *arguments, "--json").out)
    assert [runtime["outcome"] for runtime in data["runtimes"]] == [outcome]
    assert data["reference"].startswith("onnxruntime ")


def test_json_has_every_error_and_no_infinity(
    shipped_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(spec: GraphSpec, outputs: dict[str, np.ndarray]) -> None:
        if spec.file == "vision_encoder.onnx":
            outputs["image_features"][:] = np.nan

    monkeypatch.setattr(command, "ADAPTERS", (fake(shipped_bundle, change),))
    result = run_in_process(
        capsys, "conformance", str(shipped_bundle), "--tokens", "1", "--prompt", "caption en", "--json"
    )
    assert result.code == 6
    data = json.loads(result.out, parse_constant=pytest.fail)
    (runtime,) = data["runtimes"]
    graphs = {graph["graph"]: graph for graph in runtime["graphs"]}
    assert graphs["vision_encoder"]["errors"][0]["relative"] is None
    assert runtime["version"] == "7.1"
    assert runtime["outcome"] == "differs"
