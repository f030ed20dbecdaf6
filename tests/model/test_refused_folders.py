"""Folders whose names of tensors or settings belong to a wrapper or to another level of config.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from published_configs import PUBLISHED_1, PUBLISHED_2, Json
from safetensors.torch import save_file

from paligemma_onnx.model.checkpoint.checkpoint import Checkpoint
from paligemma_onnx.model.checkpoint.config_json import find_unused_settings, read_config_file
from paligemma_onnx.model.checkpoint.errors import CheckpointError
from paligemma_onnx.model.checkpoint.lora_config import read_adapter_config

NORM = "language_model.norm.weight"


def notes(folder: Path, config: Json) -> list[str]:
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    read_config_file(path)
    return find_unused_settings(path)


@pytest.mark.parametrize(
    ("prefix", "remedy"),
    [
        ("module.", "model.module.save_pretrained"),
        ("_orig_mod.", "torch.compile"),
        ("base_model.model.", "merge_and_unload"),
    ],
)
def test_names_that_begin_with_a_wrapper(tmp_path: Path, prefix: str, remedy: str) -> None:
    save_file({f"{prefix}{NORM}": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"all names of tensors begin with '{prefix}'; .*{remedy}"):
        Checkpoint.open(tmp_path, {NORM: (2,)})


@pytest.mark.parametrize(
    ("key", "value"), [("final_logit_softcapping", 30.0), ("rope_theta", 5.0), ("my_key", "x"), ("odd", {})]
)
def test_unknown_settings_of_the_top_level_have_a_note(tmp_path: Path, key: str, value: object) -> None:
    (note,) = notes(tmp_path, PUBLISHED_2 | {key: value})
    assert note == f"{tmp_path}/config.json: {key} is {value!r} and not used"


@pytest.mark.parametrize("config", [PUBLISHED_1, PUBLISHED_2])
def test_published_and_usual_settings_have_no_note(tmp_path: Path, config: Json) -> None:
    usual = {"_name_or_path": "x", "auto_map": {}, "unsloth_version": "2025.1", "use_cache": False}
    assert notes(tmp_path, config | usual) == []


def test_settings_that_transformers_writes_have_no_note(tmp_path: Path) -> None:
    import transformers

    transformers.PaliGemmaConfig().save_pretrained(tmp_path)
    assert notes(tmp_path, json.loads((tmp_path / "config.json").read_text())) == []


def test_float64_has_its_remedy(tmp_path: Path) -> None:
    save_file({NORM: torch.zeros(2, dtype=torch.float64)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"not F64: .*; save the model as float32: model\.float\(\)"):
        Checkpoint.open(tmp_path, {NORM: (2,)})


@pytest.mark.parametrize(
    "settings",
    [
        {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4},
        {"peft_type": "LORA", "r": 2, "alora_invocation_tokens": [5]},
        {"peft_type": "LORA", "r": 2, "layer_replication": [[0, 2], [1, 2]]},
    ],
)
def test_adapters_that_peft_cannot_merge(tmp_path: Path, settings: Json) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match="cannot be merged into weights") as caught:
        read_adapter_config(tmp_path)
    assert "merge_and_unload" not in str(caught.value)
