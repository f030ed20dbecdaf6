"""Rounding to NF4: a worked example, and the values that bitsandbytes 0.50.2 returns."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoints import CASES, make_model
from exporting import export_checked

from paligemma_onnx.export.exporter import ExportRequest
from paligemma_onnx.model.checkpoint.adapter import WeightedAdapter
from paligemma_onnx.model.checkpoint.nf4 import CODES, round_to_nf4
from paligemma_onnx.runtime.bundle.manifest import read_manifest

CASE = "gemma_one_kv_head"


def example() -> torch.Tensor:
    """Return values that are exact in float32: 312 blocks of five ranges, and a block of 43 values."""
    index = torch.arange(20_011)
    return (index * 7919 % 1009 - 504) / 512 * (1 + index // 64 % 5)


@pytest.mark.parametrize(
    ("dtype", "double", "digest"),
    [
        (torch.float32, False, "3fe2ced63c1e3d06"),
        (torch.float32, True, "a20b9dc74cabab56"),
        (torch.bfloat16, False, "2ba62710267709b5"),
        (torch.bfloat16, True, "e638be6b8d82a307"),
    ],
)
def test_values_of_bitsandbytes(dtype: torch.dtype, double: bool, digest: str) -> None:
    """The digests are those of `dequantize_4bit(*quantize_4bit(x, quant_type="nf4", blocksize=64))`."""
    rounded = round_to_nf4(example().to(dtype), double=double)
    assert rounded.dtype == dtype
    assert hashlib.sha256(rounded.float().numpy().tobytes()).hexdigest()[:16] == digest


def test_by_hand() -> None:
    """The scale is 2; 0.3 / 2 lies between 0.0796 and 0.1609, nearer to the latter."""
    weight = torch.zeros(2, 64)
    weight[0, :4] = torch.tensor([2.0, 0.3, -1.4, 0.07])
    rounded = round_to_nf4(weight, double=False)
    expected = [2.0, 2 * CODES[9], 2 * CODES[1], 0.0]
    assert rounded[0, :4].tolist() == pytest.approx(expected, rel=1e-7)
    assert not rounded[1].any()  # a block of zeros


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_an_adapter_on_the_rounded_base(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """The weights are those of the rounded base plus the product, and the manifest says so."""
    import peft
    from safetensors import safe_open

    from paligemma_onnx.export.source import open_source

    torch.manual_seed(3)
    config = peft.LoraConfig(r=2, lora_alpha=2, init_lora_weights=False, target_modules=["q_proj"])
    peft.get_peft_model(make_model(CASES[CASE]), config).save_pretrained(tmp_path / "adapter")
    adapters = (WeightedAdapter(tmp_path / "adapter"),)
    request = ExportRequest(checkpoint(CASE), tmp_path / "b", adapters=adapters, base_weights="nf4-double")
    export_checked(request)
    assert read_manifest(tmp_path / "b").model.base_weights == "nf4-double"

    source = open_source(checkpoint(CASE), adapters, base_weights="nf4-double").checkpoint
    stored = open_source(checkpoint(CASE)).checkpoint
    name = "language_model.layers.0.self_attn.q_proj.weight"
    with safe_open(tmp_path / "adapter" / "adapter_model.safetensors", "pt") as factors:
        prefix = "base_model.model.model.language_model.layers.0.self_attn.q_proj"
        a, b = (factors.get_tensor(f"{prefix}.lora_{factor}.weight") for factor in "AB")
    rounded = round_to_nf4(stored.tensor(name), double=True)
    torch.testing.assert_close(source.tensor(name), rounded.float() + b @ a)
    for other in ("language_model.layers.0.mlp.up_proj.weight", "multi_modal_projector.linear.weight"):
        assert torch.equal(source.tensor(other), round_to_nf4(stored.tensor(other), double=True))
    for same in ("language_model.embed_tokens.weight", "language_model.norm.weight"):
        assert torch.equal(source.tensor(same), stored.tensor(same))
