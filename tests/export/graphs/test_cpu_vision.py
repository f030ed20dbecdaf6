"""The vision encoder for CPUs: attention is one operator, and the output is torch's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from closeness import assert_close

from paligemma_onnx.model.checkpoint.load import load_model, open_checkpoint
from paligemma_onnx.runtime import Cancellation, PaliGemma
from paligemma_onnx.runtime.bundle.manifest import read_manifest
from paligemma_onnx.runtime.graphs.onnx_runner import OnnxModelRunner

pytestmark = pytest.mark.slow

Folders = Callable[[str], Path]
MAX_ERROR = 1e-5  # relative to the largest value, float32 in onnxruntime and torch
TOWER = "vision_tower"
LAYERS = 2  # of the vision towers of the cases
ATTENTION = "com.microsoft.MultiHeadAttention"


@pytest.mark.parametrize("name", ["gemma_one_kv_head", "gemma2_window"])
def test_float32_features_are_those_of_torch(
    in_place_bundle: Folders, checkpoint: Folders, name: str
) -> None:
    runner = PaliGemma.load(in_place_bundle(name), device="cpu").runner
    assert isinstance(runner, OnnxModelRunner)
    assert runner.manifest.graphs.vision_encoder.operators[ATTENTION] == LAYERS
    side = runner.manifest.image.size
    pixels = np.random.default_rng(1).uniform(-1, 1, (3, 3, side, side)).astype(np.float32)
    expected = load_model(*open_checkpoint(checkpoint(name))).encode_image(torch.from_numpy(pixels))
    (together,) = runner.vision_session.run(None, {"pixel_values": pixels})
    assert_close("three images in a call", together, expected, MAX_ERROR)
    assert_close("one by one", runner.encode_image(pixels, Cancellation()), expected, MAX_ERROR)


@pytest.mark.parametrize("precision", ["int8", "int4", "int4-compact"])
def test_products_add_their_biases(rounded: Callable[[str, str], Path], precision: str) -> None:
    """Except those whose inputs are divided by their row ranges: the ranges do not multiply the bias."""
    vision = read_manifest(rounded("gemma_one_kv_head", precision)).graphs.vision_encoder
    assert vision.operators[ATTENTION] == LAYERS
    assert "Softmax" not in vision.operators
    graph = onnx.load(rounded("gemma_one_kv_head", precision) / vision.file, load_external_data=False).graph
    products = [node for node in graph.node if node.op_type == "DynamicQuantizeMatMul"]
    with_bias = [
        node.input[4].removeprefix(f"{TOWER}.encoder.layers.") for node in products if len(node.input) == 5
    ]
    expected = [
        f"{layer}.{name}.bias"
        for layer in range(LAYERS)
        for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.fc1")
    ]
    assert with_bias == [*expected, "multi_modal_projector.linear.bias"]
    assert len(products) == 6 * LAYERS + 1
