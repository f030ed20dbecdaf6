"""Channel scaling keeps the float32 function, and makes the codes independent of injected outliers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from closeness import assert_close
from dequantized_model import build_model, fake_quantize

from paligemma_onnx.export.demo.shipped_model import shipped_model
from paligemma_onnx.export.precisions import BlockQuantized, Int8PerChannel
from paligemma_onnx.export.quantization.channel_scaling import ScaledCheckpoint
from paligemma_onnx.export.source import open_source
from paligemma_onnx.export.sources.tensor_source import TensorSource
from paligemma_onnx.model.checkpoint.load import load_model
from paligemma_onnx.model.config import PaliGemmaConfig
from paligemma_onnx.model.paligemma import PaliGemma
from paligemma_onnx.model.skeleton import meta_model
from training.outliers import inject_outliers

Folders = Callable[[str], Path]
FAMILIES = ["gemma_one_kv_head", "gemma_two_kv_heads", "gemma2_window"]


class EditableSource:
    """Copies of a source's tensors in float32, which a test may change."""

    def __init__(self, source: TensorSource, config: PaliGemmaConfig) -> None:
        names = [name for name, _ in meta_model(config).named_parameters()]
        self.tensors = {name: source.tensor(name).to(torch.float32).clone() for name in names}

    def tensor(self, name: str) -> torch.Tensor:
        return self.tensors[name]


def outputs(model: PaliGemma) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    side = model.config.vision_config.image_size
    generator = torch.Generator().manual_seed(0)
    features = model.encode_image(torch.rand(1, 3, side, side, generator=generator) * 2 - 1)
    logits, cache = model.prefill(torch.tensor([[2, 5, 300, 108]]), features, torch.tensor([4]))
    return features, logits, cache[-1].value


@pytest.mark.parametrize("name", FAMILIES)
def test_balanced_weights_compute_what_they_did(checkpoint: Folders, name: str) -> None:
    source = open_source(checkpoint(name))
    plain = outputs(load_model(source.config, source.checkpoint))
    scaled = ScaledCheckpoint(source.checkpoint, source.config)
    kinds = ("features", "logits", "cached values")
    for output, actual, expected in zip(
        kinds, outputs(build_model(source.config, scaled.tensor, input_scales=scaled)), plain, strict=True
    ):
        assert_close(f"{name}: {output}", actual, expected, 5e-6)
    changed = [
        key
        for key, _ in meta_model(source.config).named_parameters()
        if not torch.equal(scaled.tensor(key).float(), source.checkpoint.tensor(key).float())
    ]
    assert len(changed) > 10


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FAMILIES, "shipped"])
def test_injected_outliers_change_no_code(checkpoint: Folders, name: str) -> None:
    if name == "shipped":
        with shipped_model() as folder:
            source = open_source(folder)
    else:
        source = open_source(checkpoint(name))
    changed = EditableSource(source.checkpoint, source.config)
    plain = ScaledCheckpoint(source.checkpoint, source.config)
    inject_outliers(changed.tensors, source.config)
    for output, actual, expected in zip(
        ("features", "logits"),
        outputs(build_model(source.config, changed.tensor))[:2],
        outputs(load_model(source.config, source.checkpoint))[:2],
        strict=True,
    ):
        assert_close(f"{name}: {output} of the injected model", actual, expected, 5e-6)
    injected = ScaledCheckpoint(changed, source.config)
    for key, parameter in meta_model(source.config).named_parameters():
        if key.endswith(("_proj.weight", "fc1.weight", "linear.weight")) and parameter.dim() == 2:
            before, after = plain.tensor(key), injected.tensor(key)
            for format in (Int8PerChannel(), BlockQuantized(4, 32)):
                expected, actual = fake_quantize(before, format), fake_quantize(after, format)
                # v_proj keeps the injected scale of its rows, because the cache stores its output. Relative
                # to the scale of its row, no weight changes.
                row_scales = expected.abs().amax(dim=1) / actual.abs().amax(dim=1)
                assert_close(f"{key} {format}", actual * row_scales[:, None], expected, 1e-5)


def test_without_balance_they_change(checkpoint: Folders) -> None:
    source = open_source(checkpoint(FAMILIES[0]))
    changed = EditableSource(source.checkpoint, source.config)
    inject_outliers(changed.tensors, source.config)
    key = "language_model.layers.0.mlp.down_proj.weight"
    before, after = source.checkpoint.tensor(key).float(), changed.tensor(key)
    difference = fake_quantize(after, Int8PerChannel()) * (before / after)
    difference -= fake_quantize(before, Int8PerChannel())
    assert difference.abs().max() > 0.02 * before.abs().max()
