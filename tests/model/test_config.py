"""read_config against transformers on the same files, and the presets against published sizes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from published_configs import PUBLISHED_1, PUBLISHED_2, Json, with_values, without_key, write_config

from paligemma_onnx.model import presets
from paligemma_onnx.model.checkpoint.config_json import read_config
from paligemma_onnx.model.config import PaliGemmaConfig
from paligemma_onnx.model.paligemma import PaliGemma


def assert_same_as_transformers(ours: PaliGemmaConfig, folder: Path) -> None:
    theirs: Any = transformers.PaliGemmaConfig.from_pretrained(folder)
    assert ours.image_token_index == theirs.image_token_index
    for name in (
        *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        *("image_size", "patch_size", "layer_norm_eps"),
    ):
        assert getattr(ours.vision_config, name) == getattr(theirs.vision_config, name), name
    text, reference = ours.text_config, theirs.text_config
    for name in (
        *("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
        *(
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "rms_norm_eps",
            "max_position_embeddings",
        ),
    ):
        assert getattr(text, name) == getattr(reference, name), name
    assert text.rope_theta == reference.rope_parameters["rope_theta"]
    for name in ("attn_logit_softcapping", "final_logit_softcapping", "sliding_window"):
        assert getattr(text, name) == getattr(reference, name, None), name
    # GemmaAttention scales by head_dim, Gemma2Attention by the scalar.
    assert text.query_pre_attn_scalar == getattr(reference, "query_pre_attn_scalar", reference.head_dim)
    kinds = getattr(reference, "layer_types", None) or ["full_attention"] * text.num_hidden_layers
    assert [text.window(i) is not None for i in range(len(kinds))] == [k.startswith("sliding") for k in kinds]


@pytest.mark.parametrize(
    "config",
    [
        PUBLISHED_1,
        PUBLISHED_2,
        with_values(PUBLISHED_1, "text_config", hidden_act="gelu", hidden_activation=None, rope_scaling=None),
        with_values(PUBLISHED_1, "text_config", rope_theta=5000.0, max_length=20, top_k=50, pruned_heads={}),
        with_values(PUBLISHED_1, "text_config", rope_parameters={"rope_theta": 7.0, "rope_type": "default"}),
        with_values(PUBLISHED_2, "text_config", head_dim=128, query_pre_attn_scalar=144, sliding_window=64),
        with_values(PUBLISHED_2, "text_config", layer_types=["sliding_attention", "full_attention"] * 13),
        with_values(PUBLISHED_2, "text_config", final_logit_softcapping=None, attn_logit_softcapping=None),
        with_values(PUBLISHED_1, "text_config", head_dim=128),
        with_values(PUBLISHED_1, "text_config", _note_of_a_later_release=3),
        without_key(PUBLISHED_1, "text_config", "model_type"),
        without_key(PUBLISHED_1, "vision_config", "patch_size"),
    ],
)
def test_files_mean_what_they_mean_to_transformers(tmp_path: Path, config: Json) -> None:
    assert_same_as_transformers(read_config(write_config(tmp_path, config)), tmp_path)


@pytest.mark.parametrize("use_diff", [True, False])
@pytest.mark.parametrize("text", [transformers.GemmaConfig, transformers.Gemma2Config])
def test_files_written_by_transformers(tmp_path: Path, text: Any, use_diff: bool) -> None:
    decoder = text(hidden_size=2304, vocab_size=257216)
    config = transformers.PaliGemmaConfig(
        text_config=decoder, projection_dim=2304, image_token_index=257152, dtype="bfloat16"
    )
    config.to_json_file(tmp_path / "config.json", use_diff=use_diff)
    assert_same_as_transformers(read_config(tmp_path), tmp_path)


def test_published_files_are_the_presets(tmp_path: Path) -> None:
    assert read_config(write_config(tmp_path, PUBLISHED_1)) == presets.paligemma_3b(224)
    assert read_config(write_config(tmp_path, PUBLISHED_2)) == presets.paligemma2_3b(448)


@pytest.mark.parametrize(
    ("config", "count"),
    [
        # keras-hub, pali_gemma_presets.py
        (presets.paligemma_3b(224), 2_923_335_408),
        (presets.paligemma_3b(448), 2_924_220_144),
        (presets.paligemma2_3b(224), 3_032_094_960),
        (presets.paligemma2_10b(224), 9_662_409_456),
        (presets.paligemma2_28b(224), 27_650_192_112),
    ],
)
def test_presets_have_the_published_parameter_counts(config: PaliGemmaConfig, count: int) -> None:
    trained = replace(config, text_config=replace(config.text_config, vocab_size=presets.IMAGE_TOKEN))
    with torch.device("meta"):
        model = PaliGemma(trained)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_tiny_presets_keep_what_makes_the_real_ones_hard() -> None:
    assert presets.tiny_gemma(2).text_config.query_groups == 2
    text = presets.tiny_gemma2().text_config
    assert text.head_dim != text.hidden_size // text.num_attention_heads
    assert 1 < text.query_groups < text.num_attention_heads
    assert text.sliding_window is not None
    assert text.sliding_window < presets.tiny_gemma2().vision_config.num_patches


def test_the_other_name_of_the_image_token(tmp_path: Path) -> None:
    config = with_values(without_key(PUBLISHED_1, None, "image_token_index"), None, image_token_id=77)
    assert read_config(write_config(tmp_path, config)).image_token_index == 77


def test_no_window_makes_every_layer_global(tmp_path: Path) -> None:
    config = with_values(PUBLISHED_2, "text_config", sliding_window=None, layer_types=["full_attention"] * 26)
    assert read_config(write_config(tmp_path, config)).text_config.window(0) is None
