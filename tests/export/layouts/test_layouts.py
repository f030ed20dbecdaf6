"""Layouts of other tools: answers equal those of transformers, and the commands work on the folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from checkpoints import CASES, IMAGE_TOKEN
from command_line import run_in_process
from damage import copy_folder, flip_bit
from embeds_driver import EmbedsDriver
from reference_answers import random_pixels, random_prompts, reference_ids

from paligemma_onnx.export.layouts.layout import LAYOUTS

Layout = Callable[[str, str, str], Path]
STEPS = 8


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("name", ["gemma2_window", "gemma_two_kv_heads"])
@pytest.mark.parametrize(("images", "lengths"), [(1, (9, 4)), (3, (6,)), (2, (3, 11))], ids=str)
def test_greedy_ids_equal_transformers(
    layout: Layout, kind: str, name: str, images: int, lengths: tuple[int, ...]
) -> None:
    """Several images in padded batches; gemma2_window has soft caps, four KV heads and a window of 5."""
    image_tokens = (CASES[name].image_size // 14) ** 2
    ids, mask = random_prompts(images, image_tokens, lengths)
    pixels = random_pixels(name, images * len(lengths))
    expected = reference_ids(name, ids, mask, pixels, STEPS)
    driver = EmbedsDriver(layout(name, kind, "fp32"), kind, "", IMAGE_TOKEN)
    assert driver.generate(ids, mask, pixels, STEPS) == expected
    assert len({tuple(row) for row in expected}) == len(expected)


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "q8", "q4"])
def test_operators_run_in_browsers(layout: Layout, kind: str, dtype: str) -> None:
    """The build of onnxruntime-web that transformers.js loads lacks some operators."""
    quantized = {"q8": {"DynamicQuantizeMatMul", "MatMulNBits"}, "q4": {"MatMulNBits"}}
    allowed = quantized.get(dtype, set())
    graphs = sorted(layout("gemma2_window", kind, dtype).rglob("*.onnx"))
    assert len(graphs) == 3
    for path in graphs:
        graph = onnx.load(path, load_external_data=False)
        assert {each.domain: each.version for each in graph.opset_import}[""] == 20
        assert {node.op_type for node in graph.graph.node if node.domain} <= allowed
        assert not {"Cos", "Sin"} & {node.op_type for node in graph.graph.node}


@pytest.mark.parametrize(
    ("name", "kind", "other", "files", "damaged"),
    [
        ("gemma2_window", "transformers.js", "gemma_two_kv_heads", 11, "onnx/embed_tokens.onnx_data"),
        ("gemma_two_kv_heads", "genai", "gemma2_window", 8, "embedding.onnx_data"),
    ],
)
def test_commands(
    layout: Layout,
    checkpoint: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    kind: str,
    other: str,
    files: int,
    damaged: str,
) -> None:
    folder, page = copy_folder(layout(name, kind, "fp32"), tmp_path / "model"), tmp_path / "report.html"
    assert f"verified {files} files" in run_in_process(capsys, "verify", folder).out
    options = ["--checkpoint", checkpoint(name), "--steps", "2", "--json", "--html", page]
    report = json.loads(run_in_process(capsys, "validate", folder, *options).out)
    assert list(report) == ["fp32"]
    assert report["fp32"]["passed"]
    assert f"<title>Passed: bundle {report['fp32']['bundle_id']}</title>" in page.read_text(encoding="utf-8")
    assert run_in_process(capsys, "validate", folder, "--checkpoint", checkpoint(other)).code == 6
    flip_bit(folder / damaged)
    result = run_in_process(capsys, "verify", folder)
    assert result.code == 4
    assert Path(damaged).name in result.error


def test_a_page_for_each_dtype(
    checkpoint: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, folder = checkpoint("gemma2_window"), tmp_path / "model"
    dtypes = ["--layout", "transformers.js", "--dtype", "q4", "--dtype", "fp32"]
    assert run_in_process(capsys, "export", source, "--output", folder, *dtypes, "--no-validate").code == 0
    options = ["--checkpoint", source, "--steps", "1", "--html", tmp_path / "report.html"]
    assert run_in_process(capsys, "validate", folder, *options).code == 0
    for dtype, other in (("q4", "fp32"), ("fp32", "q4")):
        page = (tmp_path / f"report-{dtype}.html").read_text(encoding="utf-8")
        assert f"precision {dtype}, run on cpu" in page
        assert f"precision {other}, run on cpu" not in page
    assert not (tmp_path / "report.html").exists()


def test_options_of_bundles_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    command = ["export", "missing", "--output", tmp_path / "out"]
    assert run_in_process(capsys, *command, "--layout", "genai", "--precision", "int8").code == 2
    assert run_in_process(capsys, *command, "--dtype", "q4").code == 2
    masks = ["--mask-decoder", tmp_path / "masks.npz"]
    assert "has no mask decoder" in run_in_process(capsys, *command, "--layout", "genai", *masks).error
    assert run_in_process(capsys, *command, "--layout", "genai", "--dtype", "q4", "--dtype", "q8").code == 2
