"""The text-only checkpoint that other tools convert, as transformers and llama.cpp read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.checkpoint import make_checkpoint
from benchmarks.peers.gguf_file import norm_weight, sizes, tensors
from benchmarks.peers.text_checkpoint import ARCHITECTURES, make_text_checkpoint
from benchmarks.sizes import FAMILIES, Family, benchmark_model
from paligemma_onnx.model.checkpoint.load import open_checkpoint


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module", params=FAMILIES)
def folders(work: Path, request: pytest.FixtureRequest) -> tuple[Path, Path]:
    """Return a checkpoint and that of its language model."""
    family: Family = request.param
    whole = make_checkpoint(work, benchmark_model(family, "tiny", 224))
    return whole, make_text_checkpoint(whole)


def test_text_checkpoint_is_the_language_model_to_transformers(folders: tuple[Path, Path]) -> None:
    """It has every weight under the name of transformers, and every size."""
    from transformers import AutoModelForCausalLM

    whole, text = folders
    config, checkpoint = open_checkpoint(whole)
    model: Any
    notes: Any
    model, notes = AutoModelForCausalLM.from_pretrained(
        text, dtype=torch.bfloat16, output_loading_info=True, local_files_only=True
    )
    assert type(model).__name__ == ARCHITECTURES[config.text_config.model_type]
    assert not any(notes[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    weights = dict(model.named_parameters())  # a tied head counts once
    ours = [name for name in checkpoint.names if name.startswith("language_model.")]
    assert len(weights) == len(ours)
    for name in ours:
        assert torch.equal(weights[name.replace("language_model.", "model.")], checkpoint.tensor(name)), name
    assert model.lm_head.weight is model.model.embed_tokens.weight
    for field in ("head_dim", "num_key_value_heads", "max_position_embeddings", "rms_norm_eps"):
        assert getattr(model.config, field) == getattr(config.text_config, field)
    if config.text_config.model_type == "gemma2":
        for field in ("attn_logit_softcapping", "final_logit_softcapping", "sliding_window"):
            assert getattr(model.config, field) == getattr(config.text_config, field)
        assert model.config.query_pre_attn_scalar == config.text_config.query_pre_attn_scalar


def test_text_checkpoint_is_written_once(folders: tuple[Path, Path]) -> None:
    whole, text = folders
    before = (text / "config.json").stat().st_mtime_ns
    assert make_text_checkpoint(whole) == text
    assert (text / "config.json").stat().st_mtime_ns == before


def test_what_a_gguf_file_is_made_of(folders: tuple[Path, Path]) -> None:
    whole, text = folders
    _, checkpoint = open_checkpoint(whole)
    found = dict(tensors(text))
    for name, bits in found.items():
        stored = checkpoint.tensor(name.replace("model.", "language_model."))
        assert np.array_equal(bits, stored.view(torch.uint16).numpy()), name
    name = "layers.0.input_layernorm.weight"
    gain = checkpoint.tensor(f"language_model.{name}").float().numpy() + 1
    assert np.array_equal(norm_weight(found[f"model.{name}"]), gain)
    config = json.loads((text / "config.json").read_text())
    keys = sizes(config)
    assert keys["block_count"] == config["num_hidden_layers"]
    assert ("attention.sliding_window" in keys) == (config["model_type"] == "gemma2")
    # Q4_0 packs 32 values of a row: without whole blocks llama.cpp keeps a tensor wider.
    assert all(bits.shape[1] % 32 == 0 for bits in found.values() if bits.ndim == 2)


def test_gguf_takes_bfloat16_only(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="a is F32"):
        list(tensors(tmp_path))
