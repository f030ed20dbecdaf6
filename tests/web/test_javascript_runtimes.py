"""The JavaScript runtimes, with the npm packages of the driver (`make test-web`)."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from javascript import WEB
from paths import ROOT
from PIL import Image

from paligemma_onnx.runtime import PaliGemma
from paligemma_onnx.runtime.conformance.adapters import ADAPTERS
from paligemma_onnx.runtime.conformance.compare import Settings, compare_runtimes
from paligemma_onnx.runtime.conformance.graph_set import read_graph_set
from paligemma_onnx.runtime.conformance.requests import PROMPTS, draw_scene
from paligemma_onnx.runtime.conformance.results import Conformance, RuntimeResult

pytestmark = pytest.mark.web

Rounded = Callable[[str, str], Path]
PACKAGES = ROOT / "web"
VERSIONS = json.loads((PACKAGES / "package.json").read_text(encoding="utf-8"))["devDependencies"]


def run(bundle: Path, name: str, prompts: tuple[str, ...], packages: Path = PACKAGES) -> Conformance:
    (adapter,) = (adapter for adapter in ADAPTERS if adapter.name == name)
    settings = Settings((), prompts, 3, packages)
    return compare_runtimes(read_graph_set(bundle, None), [adapter], settings, "a machine", lambda _: None)


def only(result: Conformance) -> RuntimeResult:
    (runtime,) = result.runtimes
    return runtime


@pytest.mark.parametrize("name", ["onnxruntime-node", "onnxruntime-web"])
def test_float32_agrees(shipped_bundle: Path, name: str) -> None:
    result = run(shipped_bundle, name, PROMPTS)
    assert result.outcome(only(result)) == "agrees", only(result)
    assert only(result).version == VERSIONS[name]


@pytest.mark.parametrize("name", ["onnxruntime-node", "onnxruntime-web"])
def test_quantised_graphs_run(rounded: Rounded, name: str) -> None:
    runtime = only(run(rounded("gemma_one_kv_head", "int4"), name, ("caption en",)))
    assert all(graph.problem is None for graph in runtime.graphs), runtime
    assert all(graph.worst < 0.1 for graph in runtime.graphs)


def test_a_layout_agrees(layout: Callable[[str, str, str], Path]) -> None:
    """The weight files of a layout have other names than those of a bundle."""
    result = run(layout("shipped", "transformers.js", "fp32"), "onnxruntime-web", ("caption en",))
    assert result.outcome(only(result)) == "agrees", only(result)


def test_webgpu_agrees(shipped_bundle: Path) -> None:
    result = run(shipped_bundle, "webgpu", ("caption en",))
    runtime = only(result)
    if runtime.missing == "Chromium":
        pytest.skip("Chromium is not installed")
    assert result.outcome(runtime) == "agrees", runtime
    assert runtime.version is not None
    assert VERSIONS["onnxruntime-web"] in runtime.version


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("onnxruntime-node", "onnxruntime-node"),
        ("onnxruntime-web", "onnxruntime-web"),
        ("webgpu", "playwright-core"),
    ],
)
def test_a_package_that_is_not_installed_is_named(
    shipped_bundle: Path, tmp_path: Path, name: str, package: str
) -> None:
    runtime = only(run(shipped_bundle, name, ("caption en",), tmp_path))
    assert runtime.missing == f"the npm package {package}"
    assert package in runtime.install


def test_node_graphs_example(shipped_bundle: Path, tmp_path: Path) -> None:
    """An image of the model's size needs no resizing, so the ids are equal."""
    model = PaliGemma.load(shipped_bundle, device="cpu")
    side = model.manifest.image.size
    image = tmp_path / "scene.png"
    draw_scene().resize((side, side), Image.Resampling.BICUBIC).save(image)
    script = str(ROOT / "examples" / "node_graphs.mjs")
    for prompt in PROMPTS:
        command = ["node", script, str(shipped_bundle), str(image), prompt]
        out = subprocess.check_output(command, cwd=WEB, text=True)
        ids, text = out.splitlines()
        answer = model.generate(image, prompt)
        assert json.loads(ids) == list(answer.token_ids)
        if prompt == PROMPTS[0]:
            assert text == answer.text
