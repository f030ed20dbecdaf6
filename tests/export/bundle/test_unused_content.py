"""Tensors and settings that the model does not use: the export names them and is otherwise the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import run_in_process
from damage import copy_folder, edit_json, edit_tensors
from exporting import RecordingProgress, export_checked
from torch import Tensor

from paligemma_onnx.export.exporter import ExportRequest, export
from paligemma_onnx.model.checkpoint.load import open_checkpoint
from paligemma_onnx.runtime import PaliGemma
from paligemma_onnx.runtime.bundle.manifest import read_manifest

pytestmark = pytest.mark.slow

Folders = Callable[[str], Path]
CASE = "gemma_one_kv_head"
EMBEDDING = "language_model.model.embed_tokens.weight"
LAYER = "language_model.model.layers.0.self_attn"
UNUSED: dict[str, Tensor] = {
    f"{LAYER}.rotary_emb.inv_freq": torch.ones(4),
    "language_model.model.rotary_emb.inv_freq": torch.ones(4, dtype=torch.float64),
    "vision_tower.vision_model.embeddings.position_ids": torch.arange(4)[None],
    "vision_tower.vision_model.head.probe": torch.zeros(1, 1, 24),
    "vision_tower.vision_model.head.attention.in_proj_weight": torch.zeros(72, 24),
    "gemma_expert.model.layers.0.mlp.up_proj.weight": torch.zeros(4, 4),
    "v_head.summary.weight": torch.zeros(1, 32),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "top": {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
    "text_config": {"use_adarms": False, "adarms_cond_dim": None, "layer_groups": []},
    "vision_config": {"quantization_config": {"bits": 8}, "use_new_head": False, "extra": {}},
}


@pytest.fixture
def copy(checkpoint: Folders, tmp_path: Path) -> Path:
    return copy_folder(checkpoint(CASE), tmp_path / "checkpoint")


def add_settings(config: dict[str, Any]) -> None:
    config |= SETTINGS["top"]
    for section in ("text_config", "vision_config"):
        config[section] |= SETTINGS[section]


def test_the_same_bundle_with_a_note_for_each(copy: Path, bundle: Folders, tmp_path: Path) -> None:
    edit_tensors(copy, lambda tensors: tensors.update(UNUSED))
    edit_json(copy / "config.json", add_settings)
    progress = RecordingProgress()
    manifest = export(ExportRequest(copy, tmp_path / "bundle"), progress, None)
    assert manifest.bundle_id == read_manifest(bundle(CASE)).bundle_id
    notes = "\n".join(progress.warnings)
    for name in UNUSED:
        assert name in notes
    for key in ("use_adarms is False", "layer_groups is []", "use_new_head is False", "extra is {}"):
        assert f"{key} and not used" in notes
    assert notes.count("quantization_config is not used; the weights are not quantised") == 2
    assert len(progress.warnings) == 7  # one for all tensors


def test_a_checkpoint_without_them_has_no_note(checkpoint: Folders) -> None:
    assert open_checkpoint(checkpoint(CASE))[1].notes == ()


def test_transformers_accepts_them_too(
    copy: Path, bundle: Folders, capsys: pytest.CaptureFixture[str]
) -> None:
    edit_json(copy / "config.json", add_settings)
    options = ("--reference", "transformers", "--steps", "1")
    assert run_in_process(capsys, "validate", bundle(CASE), "--checkpoint", copy, *options).code == 0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (f"{LAYER}.q_proj.bias", f"unexpected (1): {LAYER}.q_proj.bias"),
        (f"{LAYER}.q_norm.weight", "unexpected (1)"),
        ("language_model.model.layers.2.mlp.up_proj.weight", "unexpected (1)"),
        (f"{LAYER}.q_proj.weight_scale", "unexpected (1)"),
        ("vision_tower.vision_model.encoder.layers.0.layer_norm3.bias", "unexpected (1)"),
    ],
)
def test_a_tensor_that_could_change_arithmetic_is_refused(
    copy: Path, capsys: pytest.CaptureFixture[str], name: str, words: str
) -> None:
    edit_tensors(copy, lambda tensors: tensors.update({name: torch.zeros(8)}))
    result = run_in_process(capsys, "export", copy, "--output", copy.parent / "bundle")
    assert result.code == 4
    assert words in result.error


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4-compact", "int4-portable"])
def test_an_embedding_without_a_row_for_the_image_token(copy: Path, tmp_path: Path, precision: str) -> None:
    """As in pi0: the rows end before `<image>`, which no graph looks up."""

    def cut(config: dict[str, Any]) -> None:
        config["text_config"]["vocab_size"] = config["image_token_index"]

    edit_json(copy / "config.json", cut)
    rows = open_rows(copy)
    edit_tensors(copy, lambda tensors: tensors.update({EMBEDDING: tensors[EMBEDDING][:rows].clone()}))
    manifest = export_checked(ExportRequest(copy, tmp_path / "bundle", precision=precision))
    assert manifest.tokens.image == manifest.model.vocab_size == rows
    assert manifest.tokens.suppressed == ()
    model = PaliGemma.load(tmp_path / "bundle")
    image = torch.zeros(28, 28, 3, dtype=torch.uint8).numpy()
    assert model.generate(image, "caption en", max_new_tokens=4).token_ids


def open_rows(folder: Path) -> int:
    rows: int = json.loads((folder / "config.json").read_text())["image_token_index"]
    return rows


def test_another_token_without_a_row_is_refused(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = open_rows(copy) - 1
    edit_json(copy / "config.json", lambda config: config["text_config"].update(vocab_size=rows))
    edit_tensors(copy, lambda tensors: tensors.update({EMBEDDING: tensors[EMBEDDING][:rows].clone()}))
    result = run_in_process(capsys, "export", copy, "--output", copy.parent / "bundle")
    assert result.code == 4
    assert f"the embedding only {rows} rows" in result.error
