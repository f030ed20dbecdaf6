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


def test_commands(
    layout: Layout, checkpoint: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = str(checkpoint("gemma2_window"))
    folder = copy_folder(layout("gemma2_window", "transformers.js", "fp32"), tmp_path / "model")
    assert "verified 11 files" in run_in_process(capsys, "verify", folder).out
    options = ["--checkpoint", source, "--steps", "2", "--json"]
    report = json.loads(run_in_process(capsys, "validate", folder, *options).out)
    assert list(report) == ["fp32"]
    assert report["fp32"]["passed"]
    other = str(checkpoint("gemma_two_kv_heads"))
    assert run_in_process(capsys, "validate", folder, "--checkpoint", other).code == 6
    flip_bit(folder / "onnx" / "embed_tokens.onnx_data")
    result = run_in_process(capsys, "verify", folder)
    assert result.code == 4
    assert "embed_tokens.onnx_data" in result.err


def test_options_of_bundles_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    command = ["export", "missing", "--output", tmp_path / "out"]
    assert run_in_process(capsys, *command, "--layout", "genai", "--precision", "int8").code == 2
    assert run_in_process(capsys, *command, "--dtype", "q4").code == 2
    masks = ["--mask-decoder", tmp_path / "masks.npz"]
    assert "has no mask decoder" in run_in_process(capsys, *command, "--layout", "genai", *masks).error
    assert run_in_process(capsys, *command, "--layout", "genai", "--dtype", "q4", "--dtype", "q8").code == 2
