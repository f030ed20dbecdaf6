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
