"""What an export writes, byte by byte, and what different ways to the same weights have in common."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from exporting import RecordingProgress, export_checked
from safetensors.torch import load_file, save_file

from paligemma_onnx.export.bundle import weight_file as weights
from paligemma_onnx.export.exporter import ExportRequest, export
from paligemma_onnx.export.precisions import WeightFormat
from paligemma_onnx.export.quantization import encodings
from paligemma_onnx.model.checkpoint.errors import CheckpointError

Folders = Callable[[str], Path]
CASE = "gemma_one_kv_head"


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def export_unchecked(request: ExportRequest) -> RecordingProgress:
    progress = RecordingProgress()
    export(request, progress, None)
    return progress


def copied(checkpoint: Path, folder: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """A checkpoint's other files in a new folder, and its tensors."""
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
    folder, tensors = copied(checkpoint(name), tmp_path / "one file")
    save_file(tensors, folder / "model.safetensors")
    export_unchecked(ExportRequest(folder, tmp_path / "bundle"))
    assert contents(tmp_path / "bundle") == contents(bundle(name))


@pytest.mark.parametrize("piece", [64, 1000, 1 << 20])
def test_weights_are_written_in_pieces(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Folders, bundle: Folders, tmp_path: Path, piece: int
) -> None:
    """Never more than a piece is in memory, or than a row where rows are longer, and no byte shows it."""
    expected, real = contents(bundle(CASE)), weights.encode
    written: list[int] = []

    def listened(
        tensor: torch.Tensor, form: WeightFormat, *, transposed: bool
    ) -> Iterator[tuple[int, memoryview]]:
        stored = tensor.t() if transposed else tensor
        for array, part in real(tensor, form, transposed=transposed):
            assert len(part) <= max(piece, 4 * stored[0].numel())
            written.append(len(part))
            yield array, part

    monkeypatch.setattr(encodings, "MAX_PIECE_BYTES", piece)
    monkeypatch.setattr(weights, "encode", listened)
    progress = export_unchecked(ExportRequest(checkpoint(CASE), tmp_path / "bundle"))
    assert contents(tmp_path / "bundle") == expected
    assert progress.written == progress.total  # the bar ends at its end
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
    """Factors are small whole numbers, so that the merge has one rounding and one right answer."""
    folder, tensors = copied(checkpoint(CASE), tmp_path / "merged")
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
        # PEFT names modules as transformers does in memory.
        path = canonical(stored)
        factors[f"base_model.model.model.{path}.lora_A.weight"] = a
        factors[f"base_model.model.model.{path}.lora_B.weight"] = b
        merged = tensors[stored].double() + (b.double() @ a.double()) * (alpha / rank)
        tensors[stored] = merged.float()
    save_file(tensors, folder / "model.safetensors")
    adapter = write_adapter(tmp_path / "adapter", factors, alpha, rank)

    export_unchecked(ExportRequest(checkpoint(CASE), tmp_path / "by adapter", adapter=adapter))
    export_unchecked(ExportRequest(folder, tmp_path / "by hand"))
    by_adapter = contents(tmp_path / "by adapter")
    assert by_adapter == contents(tmp_path / "by hand")
    assert by_adapter["decoder.data"] != contents(bundle(CASE))["decoder.data"]
    assert by_adapter["vision_encoder.data"] != contents(bundle(CASE))["vision_encoder.data"]


def canonical(stored: str) -> str:
    return (
        stored.removesuffix(".weight")
        .replace("language_model.model.", "language_model.")
        .replace("vision_tower.vision_model.", "vision_tower.")
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_numbers(checkpoint: Folders, tmp_path: Path, value: float) -> None:
    folder, tensors = copied(checkpoint(CASE), tmp_path / "checkpoint")
    name = "language_model.model.layers.1.mlp.up_proj.weight"
    tensors[name][3, 7] = value
    save_file(tensors, folder / "model.safetensors")
    bundles = tmp_path / "bundles"
    with pytest.raises(CheckpointError, match=r"hold NaN or infinity: .*layers\.1\.mlp\.up_proj") as caught:
        export_unchecked(ExportRequest(folder, bundles / "strict", strict=True))
    assert "\n" not in str(caught.value)
    assert not bundles.exists() or not list(bundles.iterdir())

    # The bundle is as broken as the checkpoint, and in the same places.
    progress = RecordingProgress()
    export_checked(ExportRequest(folder, bundles / "warned"), progress)
    assert len(progress.warnings) == 1
    assert "layers.1.mlp.up_proj" in progress.warnings[0]
    assert (bundles / "warned" / "manifest.json").exists()


def test_a_sound_checkpoint_gives_no_warning(checkpoint: Folders, tmp_path: Path) -> None:
    request = ExportRequest(checkpoint(CASE), tmp_path / "bundle", strict=True)
    assert export_unchecked(request).warnings == []
