"""`fp16` in layouts: float16 matrices between float32 norms, with float32 inputs and outputs.

test_genai.py and tests/web compare answers of the model in the repository with transformers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from closeness import assert_close
from numpy.typing import NDArray

from paligemma_onnx.export.layouts.layout import LAYOUTS
from paligemma_onnx.export.validation.float32_emulation import emulate_in_float32
from paligemma_onnx.runtime.engine.devices import choose_placement
from paligemma_onnx.runtime.engine.session import open_serialized

Layout = Callable[[str, str, str], Path]
CASE = "gemma2_window"  # soft caps, and norms of the outputs of attention and MLP
FLOAT32_WEIGHTS = ("norm", "bias", "rotation", "patch_embedding", "position_embedding")
LARGEST_FLOAT16 = 65504


@pytest.mark.parametrize("kind", LAYOUTS)
def test_matrices_are_float16_and_interfaces_float32(layout: Layout, kind: str) -> None:
    types = onnx.TensorProto
    for path in sorted(layout(CASE, kind, "fp16").rglob("*.onnx")):
        graph = onnx.load(path, load_external_data=False).graph
        borders = {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
        assert borders <= {types.FLOAT, types.INT64}
        weights = [each for each in graph.initializer if each.data_location == types.EXTERNAL]
        for weight in weights:
            expected = types.FLOAT if any(part in weight.name for part in FLOAT32_WEIGHTS) else types.FLOAT16
            assert weight.data_type == expected, weight.name


def run_decoder(folder: Path, embeds: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the logits float32[V] after one prompt of embedded tokens float32[1, L, D].

    On a CPU, onnxruntime removes the rounding between operators; in float32 emulation it does not.
    """
    (path,) = folder.rglob("decoder_model_merged*.onnx")
    cpu = choose_placement("cpu", None)
    session = open_serialized(emulate_in_float32(path), cpu, weights_folder=path.parent)
    tokens = np.arange(embeds.shape[1])[None]
    mask = np.ones_like(tokens)
    feeds: dict[str, Any] = {"inputs_embeds": embeds, "attention_mask": mask, "position_ids": tokens}
    for spec in session.get_inputs()[3:]:
        feeds[spec.name] = np.zeros((1, spec.shape[1], 0, spec.shape[3]), np.float32)
    logits: NDArray[np.float32] = session.run(["logits"], feeds)[0]
    return logits[0, 0]


def random_embeds(folder: Path) -> NDArray[np.float32]:
    graph = onnx.load(next(folder.rglob("decoder*.onnx")), load_external_data=False).graph
    width = graph.input[0].type.tensor_type.shape.dim[2].dim_value
    return np.random.default_rng(4).standard_normal((1, 9, width)).astype(np.float32)


def test_activations_outside_the_range_of_float16(layout: Layout) -> None:
    exact, half = (layout(CASE, "transformers.js", dtype) for dtype in ("fp32", "fp16"))
    embeds = 1e5 * random_embeds(exact)
    assert np.abs(embeds).max() > LARGEST_FLOAT16
    assert_close("logits", run_decoder(half, embeds), run_decoder(exact, embeds), 2e-3)


def test_likely_tokens_are_scored_in_float32(layout: Layout) -> None:
    """The case without a soft cap: a logit that was rounded to float16 equals itself rounded again."""
    folder = layout("gemma_two_kv_heads", "transformers.js", "fp16")
    logits = run_decoder(folder, random_embeds(folder))
    rounded = logits == logits.astype(np.float16)
    order = np.argsort(logits)
    assert rounded[order[:-32]].all()
    assert rounded[order[-32:]].sum() < 8
