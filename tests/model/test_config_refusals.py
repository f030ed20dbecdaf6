"""Every kind of config.json that is refused: the message is one line that names the key."""

from __future__ import annotations

from pathlib import Path

import pytest
from published_configs import PUBLISHED_1, PUBLISHED_2, Json, with_values, without_key, write_config

from paligemma_onnx.model.checkpoint.config_json import MAX_CONFIG_BYTES, read_config
from paligemma_onnx.model.checkpoint.errors import CheckpointError


@pytest.mark.parametrize(
    ("section", "values", "words"),
    [
        (None, {"model_type": "llava"}, "model_type is 'llava'"),
        (None, {"projection_dim": 2304}, "projection_dim is 2304"),
        (None, {"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no'"),
        (None, {"text_config": None}, "text_config must be an object"),
        (None, {"image_token_index": -1}, "image_token_index is -1"),
        (None, {"image_token_index": None}, "image_token_index is None"),
        (None, {"image_token_id": 5}, "image_token_id differ"),
        ("text_config", {"model_type": "gemma3_text"}, "text_config.model_type is 'gemma3_text'"),
        ("text_config", {"hidden_size": 0}, "text_config.hidden_size is 0"),
        ("text_config", {"hidden_size": -2048}, "hidden_size is -2048"),
        ("text_config", {"hidden_size": 2048.0}, "hidden_size is 2048.0"),
        ("text_config", {"hidden_size": True}, "hidden_size is True"),
        ("text_config", {"hidden_size": "2048"}, "hidden_size is '2048'"),
        ("text_config", {"vocab_size": 10**12}, "vocab_size is 1000000000000"),
        ("text_config", {"vocab_size": 10**4000}, "vocab_size is 1000"),
        ("text_config", {"num_hidden_layers": 10**6}, "num_hidden_layers"),
        ("text_config", {"num_key_value_heads": 3}, "num_attention_heads is 8, not a multiple"),
        ("text_config", {"head_dim": 255}, "head_dim is 255"),
        ("text_config", {"rms_norm_eps": 0}, "rms_norm_eps is 0"),
        ("text_config", {"rms_norm_eps": 10**400}, "rms_norm_eps"),
        ("text_config", {"rope_theta": False}, "rope_theta is False"),
        ("text_config", {"attention_bias": True}, "attention_bias is True"),
        ("text_config", {"hidden_activation": "gelu"}, "hidden_activation is 'gelu'"),
        ("text_config", {"hidden_act": "silu"}, "hidden_act is 'silu'"),
        ("text_config", {"use_bidirectional_attention": False}, "use_bidirectional_attention is False"),
        ("text_config", {"tie_word_embeddings": "no"}, "text_config.tie_word_embeddings"),
        ("text_config", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling.type is 'linear'"),
        ("text_config", {"rope_parameters": {"rope_type": "yarn"}}, "rope_parameters.rope_type is 'yarn'"),
        ("text_config", {"rope_parameters": {"full_attention": {}}}, "not understood: full_attention"),
        ("text_config", {"rope_parameters": {"rope_theta": 1.0}, "rope_theta": 2.0}, "given twice"),
        ("text_config", {"rope_parameters": 3}, "rope_parameters must be an object"),
        ("text_config", {"sliding_windw": 4096}, "not understood: sliding_windw"),
        ("text_config", {"use_adarms": True}, "not understood: use_adarms"),
        ("text_config", {"adarms_cond_dim": 0}, "not understood: adarms_cond_dim"),
        ("text_config", {"final_logit_softcapping": 30.0}, "not understood: final_logit_softcapping"),
        ("text_config", {"pruned_heads": {"0": [1]}}, "pruned_heads"),
        ("vision_config", {"model_type": "clip_vision_model"}, "vision_config.model_type"),
        ("vision_config", {"hidden_act": "gelu"}, "vision_config.hidden_act is 'gelu'"),
        ("vision_config", {"num_channels": 1}, "num_channels is 1"),
        ("vision_config", {"image_size": [224, 224]}, "image_size is [224, 224]"),
        ("vision_config", {"image_size": 13}, "image_size is 13, less than patch_size 14"),
        ("vision_config", {"image_size": 10**4, "patch_size": 1}, "100000000 patches"),
        ("vision_config", {"num_attention_heads": 7}, "hidden_size is 1152, not a multiple"),
        ("vision_config", {"vision_use_head": "yes"}, "vision_use_head"),
        ("vision_config", {"spatial_merge": 2}, "not understood: spatial_merge"),
    ],
)
def test_refusals_name_the_key(tmp_path: Path, section: str | None, values: Json, words: str) -> None:
    folder = write_config(tmp_path, with_values(PUBLISHED_1, section, **values))
    assert_refused(folder, words)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"layer_types": ["full_attention", "sliding_attention"] * 13}, "layer_types"),
        ({"layer_types": ["sliding_attention", "full_attention"]}, "layer_types"),
        ({"sliding_window": 0}, "sliding_window is 0"),
        ({"sliding_window_size": 512}, "sliding_window_size is 512"),
        ({"query_pre_attn_scalar": 0}, "query_pre_attn_scalar is 0"),
        ({"attn_logit_softcapping": -50.0}, "attn_logit_softcapping is -50.0"),
    ],
)
def test_refusals_of_gemma2(tmp_path: Path, values: Json, words: str) -> None:
    assert_refused(write_config(tmp_path, with_values(PUBLISHED_2, "text_config", **values)), words)


def test_a_missing_image_token_is_never_guessed(tmp_path: Path) -> None:
    assert_refused(
        write_config(tmp_path, without_key(PUBLISHED_1, None, "image_token_index")), "tokenizer.json"
    )


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not valid JSON at line 1, column 1"),
        (b"{", "not valid JSON"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'{"model_type": "paligemma", "x": NaN}', "NaN"),
        (b'{"x": -Infinity}', "Infinity"),
        (b'{"x": 1e999}', "'1e999' is not finite"),
        (b'{"x": ' + b"9" * 5000 + b"}", "too many digits"),
        (b'{"model_type": 1, "model_type": "paligemma"}', "'model_type' occurs twice"),
        (b'{"x": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"x": "\xff"}', "not UTF-8"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"{}" + b" " * MAX_CONFIG_BYTES, "larger than"),
        (b'{"model_type": "a\\n\\u001b[31m\\ud800"}', "model_type is 'a\\n\\x1b[31m\\ud800'"),
        (b"{}", "model_type is missing"),
    ],
)
def test_files_that_are_no_config(tmp_path: Path, data: bytes, words: str) -> None:
    assert_refused(write_config(tmp_path, data), words)


def test_no_file_and_a_folder_in_its_place(tmp_path: Path) -> None:
    assert_refused(tmp_path, "no such file")
    (tmp_path / "config.json").mkdir()
    assert_refused(tmp_path, "not a regular file")


def assert_refused(folder: Path, words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_config(folder)
    message = str(caught.value)
    assert words in message
    assert str(folder / "config.json") in message
    assert message.isprintable()  # so it is one line
    assert len(message) < len(str(folder)) + 300
    assert caught.value.exit_code == 4
