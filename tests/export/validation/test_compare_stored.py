"""If rounding alone exceeds a limit, quantised graphs are compared with torch on the stored weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from closeness import assert_close
from damage import copy_folder
from dequantized_model import dequantized_model

from paligemma_onnx.export.layouts.check_layout import check_layout
from paligemma_onnx.export.source import open_source
from paligemma_onnx.export.validation import compare
from paligemma_onnx.export.validation.measures import ROUNDED_ACTIVATIONS, Limits
from paligemma_onnx.export.validation.self_check import self_check
from paligemma_onnx.export.validation.stored_model import load_stored_model
from paligemma_onnx.runtime.bundle.layout_record import read_layout_record
from paligemma_onnx.runtime.bundle.manifest import read_manifest
from paligemma_onnx.runtime.errors import MismatchError

Folders = Callable[[str], Path]
CASE = "gemma2_window"
PRECISION = "int4-portable"
EXPLAINED = "rounding exceeds a limit: comparing with the stored weights"


@pytest.fixture
def _low_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding exceeds the limit, as it does in deep models of random weights."""
    monkeypatch.setattr(compare, "ROUNDED", Limits(math.inf, 0.01))


@pytest.mark.parametrize("precision", ["int8", "int4"])
@torch.inference_mode()
def test_the_model_has_the_stored_weights(
    rounded: Callable[[str, str], Path], checkpoint: Folders, precision: str
) -> None:
    """8-bit matrices and an embedding of 8 or 4 bits, compared with weights that the test rounds itself."""
    folder, source = rounded(CASE, precision), open_source(checkpoint(CASE))
    graphs = [folder / f"{name}.onnx" for name in ("vision_encoder", "prefill")]
    model, rng = load_stored_model(source.config, graphs), np.random.default_rng(2)
    side = source.config.vision_config.image_size
    pixels = torch.from_numpy(rng.uniform(-1, 1, (1, 3, side, side)).astype(np.float32))
    features = dequantized_model(source, precision, "vision_encoder").encode_image(pixels)
    assert_close("features", model.encode_image(pixels), features, 1e-5)
    ids, lengths = torch.from_numpy(rng.integers(4, 600, (1, 7))), torch.tensor([7])
    expected = dequantized_model(source, precision, "prefill").prefill(ids, features, lengths)[0]
    assert_close("logits", model.prefill(ids, features, lengths)[0], expected, 1e-5)


@pytest.mark.usefixtures("_low_limit")
def test_rounding_explains_the_error(rounded: Callable[[str, str], Path], checkpoint: Folders) -> None:
    folder, source = rounded(CASE, PRECISION), open_source(checkpoint(CASE))
    stages = list[str]()
    validation = self_check(folder, read_manifest(folder), source, stages.append)
    assert EXPLAINED in stages
    assert validation.reference == f"torch {torch.__version__} with the stored weights"
    assert {difference.limits for difference in validation.comparison.differences} == {ROUNDED_ACTIVATIONS}


@pytest.mark.usefixtures("_low_limit")
def test_wrong_graphs_are_refused(
    rounded: Callable[[str, str], Path], checkpoint: Folders, tmp_path: Path
) -> None:
    folder, source = copy_folder(rounded(CASE, PRECISION), tmp_path / "b"), open_source(checkpoint(CASE))
    model = onnx.load(folder / "prefill.onnx", load_external_data=False)
    caps = [node for node in model.graph.node if node.op_type == "Tanh"]
    assert len(caps) > 2
    for node in caps:
        node.op_type = "Sigmoid"
    onnx.save(model, folder / "prefill.onnx")
    with pytest.raises(MismatchError, match="prefill"):
        self_check(folder, read_manifest(folder), source, lambda _: None)


@pytest.mark.usefixtures("_low_limit")
def test_layouts(layout: Callable[[str, str, str], Path], checkpoint: Folders) -> None:
    folder, stages = layout(CASE, "transformers.js", "q4"), list[str]()
    check_layout(folder, read_layout_record(folder), open_source(checkpoint(CASE)), stages.append)
    assert EXPLAINED in stages
