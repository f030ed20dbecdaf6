"""Bytes that an export writes: equal for equal weights, however they are stored or merged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from exporting import RecordingProgress, export_checked
from safetensors.torch import load_file, save_file

from paligemma_onnx.export.bundle import weight_file
from paligemma_onnx.export.exporter import ExportRequest, export
from paligemma_onnx.export.precisions import WeightFormat
from paligemma_onnx.export.quantization import encodings
from paligemma_onnx.model.checkpoint.adapter import WeightedAdapter
from paligemma_onnx.model.checkpoint.errors import CheckpointError

Folders = Callable[[str], Path]
CASE = "gemma_one_kv_head"


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def export_unchecked(request: ExportRequest) -> RecordingProgress:
    progress = RecordingProgress()
    export(request, progress, None)
    return progress


def copy_without_weights(checkpoint: Path, folder: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """Copy a checkpoint without its weights into a new folder; return the folder and the tensors."""
    folder.mkdir()
    tensors: dict[str, torch.Tensor] = {}
    for file in checkpoint.iterdir():
        if file.suffix == ".safetensors":
            tensors |= load_file(file)
        elif file.name != "model.safetensors.index.json":
            shutil.copy(file, folder)
    return folder, tensors


def test_shards_make_no_difference(checkpoint: Folders, bundle: Folders, tmp_path: Path) -> None:
    name = "gemma_two_kv_heads"
    assert len(list(checkpoint(name).glob("*.safetensors"))) > 1
    folder, tensors = copy_without_weights(checkpoint(name), tmp_path / "one file")
    save_file(tensors, folder / "model.safetensors")
    export_unchecked(ExportRequest(folder, tmp_path / "bundle"))
    assert contents(tmp_path / "bundle") == contents(bundle(name))


@pytest.mark.parametrize("piece", [64, 1000, 1 << 20])
def test_weights_are_written_in_pieces(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Folders, bundle: Folders, tmp_path: Path, piece: int
) -> None:
    """No write exceeds a piece, or a row if a row is longer; the size of pieces does not change a byte."""
    expected, encode = contents(bundle(CASE)), weight_file.encode
    written: list[int] = []

    def encode_and_record(
        tensor: torch.Tensor, format: WeightFormat, *, transposed: bool
    ) -> Iterator[tuple[int, memoryview]]:
        stored = tensor.t() if transposed else tensor
        for array, content in encode(tensor, format, transposed=transposed):
            assert len(content) <= max(piece, 4 * stored[0].numel())
            written.append(len(content))
            yield array, content

    monkeypatch.setattr(encodings, "MAX_PIECE_BYTES", piece)
    monkeypatch.setattr(weight_file, "encode", encode_and_record)
    progress = export_unchecked(ExportRequest(checkpoint(CASE), tmp_path / "bundle"))
    assert contents(tmp_path / "bundle") == expected
    assert progress.written == progress.total  # the progress bar reaches 100 %
    assert progress.written >= sum(written) > 0.9 * progress.written  # the rest is padding
    if piece == 64:
        assert len(written) > 1000


def write_adapter(folder: Path, tensors: dict[str, torch.Tensor], alpha: int, rank: int) -> Path:
    folder.mkdir()
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def test_a_merged_adapter_equals_a_checkpoint_with_merged_weights(
    checkpoint: Folders, bundle: Folders, tmp_path: Path
) -> None:
    """LoRA factors are small integers, so the merge rounds once and has one correct result."""
    folder, tensors = copy_without_weights(checkpoint(CASE), tmp_path / "merged")
    generator = torch.Generator().manual_seed(11)
    rank, alpha = 4, 2
    factors = {}
    for layer, module in (
        ("language_model.model.layers.0", "self_attn.q_proj"),
        ("language_model.model.layers.1", "mlp.down_proj"),
        ("vision_tower.vision_model.encoder.layers.1", "self_attn.out_proj"),
    ):
        stored = f"{layer}.{module}.weight"
        out_features, in_features = tensors[stored].shape
        a, b = (
            torch.randint(-2, 3, shape, generator=generator).float()
            for shape in ((rank, in_features), (out_features, rank))
        )
        # PEFT uses the names that transformers gives modules in memory.
        path = module_path(stored)
        factors[f"base_model.model.model.{path}.lora_A.weight"] = a
        factors[f"base_model.model.model.{path}.lora_B.weight"] = b
        merged = tensors[stored].double() + (b.double() @ a.double()) * (alpha / rank)
        tensors[stored] = merged.float()
    save_file(tensors, folder / "model.safetensors")
    adapter = write_adapter(tmp_path / "adapter", factors, alpha, rank)

    export_unchecked(
        ExportRequest(checkpoint(CASE), tmp_path / "by adapter", adapters=(WeightedAdapter(adapter),))
    )
    export_unchecked(ExportRequest(folder, tmp_path / "by hand"))
    by_adapter = contents(tmp_path / "by adapter")
    assert by_adapter == contents(tmp_path / "by hand")
    assert by_adapter["decoder.data"] != contents(bundle(CASE))["decoder.data"]
    assert by_adapter["vision_encoder.data"] != contents(bundle(CASE))["vision_encoder.data"]


def module_path(stored: str) -> str:
    return (
        stored.removesuffix(".weight")
        .replace("language_model.model.", "language_model.")
        .replace("vision_tower.vision_model.", "vision_tower.")
    )


@pytest.mark.slow
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_numbers(checkpoint: Folders, tmp_path: Path, value: float) -> None:
    folder, tensors = copy_without_weights(checkpoint(CASE), tmp_path / "checkpoint")
    name = "language_model.model.layers.1.mlp.up_proj.weight"
    tensors[name][3, 7] = value
    save_file(tensors, folder / "model.safetensors")
    bundles = tmp_path / "bundles"
    with pytest.raises(
        CheckpointError, match=r"contain NaN or infinity: .*layers\.1\.mlp\.up_proj"
    ) as caught:
        export_unchecked(ExportRequest(folder, bundles / "strict", strict=True))
    assert "\n" not in str(caught.value)
    assert not bundles.exists() or not list(bundles.iterdir())

    # The exported weights have the same values that are not finite, so the check passes.
    progress = RecordingProgress()
    export_checked(ExportRequest(folder, bundles / "warned"), progress)
    assert len(progress.warnings) == 1
    assert "layers.1.mlp.up_proj" in progress.warnings[0]
    assert (bundles / "warned" / "manifest.json").exists()


@pytest.mark.slow
def test_a_sound_checkpoint_gives_no_warning(checkpoint: Folders, tmp_path: Path) -> None:
    request = ExportRequest(checkpoint(CASE), tmp_path / "bundle", strict=True)
    assert export_unchecked(request).warnings == []
