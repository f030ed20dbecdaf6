"""config.json against transformers' own reading of the same file, and every refusal."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from paligemma_onnx.model import presets
from paligemma_onnx.model.config import PaliGemmaConfig
from paligemma_onnx.model.config_json import MAX_CONFIG_BYTES, read_config
from paligemma_onnx.model.errors import CheckpointError
from paligemma_onnx.model.paligemma import PaliGemma

Json = dict[str, Any]

# What google/paligemma-3b-mix-224 publishes: sizes, legacy keys, and no image_size at all.
PUBLISHED_1: Json = {
    "_name_or_path": "final-hf/paligemma-3b-mix-224-main",
    "_vocab_size": 257152,
    "architectures": ["PaliGemmaForConditionalGeneration"],
    "bos_token_id": 2,
    "eos_token_id": 1,
    "hidden_size": 2048,
    "ignore_index": -100,
    "image_token_index": 257152,
    "model_type": "paligemma",
    "pad_token_id": 0,
    "projection_dim": 2048,
    "text_config": {
        "hidden_size": 2048,
        "intermediate_size": 16384,
        "model_type": "gemma",
        "num_attention_heads": 8,
        "num_hidden_layers": 18,
        "num_image_tokens": 256,
        "num_key_value_heads": 1,
        "torch_dtype": "float32",
        "vocab_size": 257216,
    },
    "torch_dtype": "float32",
    "transformers_version": "4.42.0.dev0",
    "vision_config": {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "model_type": "siglip_vision_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 27,
        "num_image_tokens": 256,
        "patch_size": 14,
        "projection_dim": 2048,
        "projector_hidden_act": "gelu_fast",
        "vision_use_head": False,
    },
}
# A PaliGemma 2 as transformers 4.47 wrote it: the 2B decoder equals the class defaults, so almost all is left
# out; the top level's hidden_size is the class default, too, and wrong.
PUBLISHED_2: Json = {
    "_vocab_size": 257152,
    "hidden_size": 2048,
    "image_token_index": 257152,
    "model_type": "paligemma",
    "num_hidden_layers": 26,
    "projection_dim": 2304,
    "text_config": {
        "cache_implementation": "hybrid",
        "eos_token_id": [1, 107],
        "hidden_act": "gelu_pytorch_tanh",
        "model_type": "gemma2",
        "num_image_tokens": 256,
        "torch_dtype": "bfloat16",
        "vocab_size": 257216,
    },
    "vision_config": {
        "hidden_size": 1152,
        "image_size": 448,
        "intermediate_size": 4304,
        "model_type": "siglip_vision_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 27,
        "num_image_tokens": 1024,
        "num_positions": 256,
        "patch_size": 14,
        "torch_dtype": "bfloat16",
        "vision_use_head": False,
    },
}


def write(folder: Path, config: Json | str | bytes) -> Path:
    data = json.dumps(config) if isinstance(config, dict) else config
    (folder / "config.json").write_bytes(data if isinstance(data, bytes) else data.encode())
    return folder


def changed(config: Json, section: str | None, **values: object) -> Json:
    """A copy with keys of one section (None: the top level) set."""
    copy: Json = json.loads(json.dumps(config))
    (copy if section is None else copy[section]).update(values)
    return copy


def without(config: Json, section: str | None, key: str) -> Json:
    copy: Json = json.loads(json.dumps(config))
    del (copy if section is None else copy[section])[key]
    return copy


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
        changed(PUBLISHED_1, "text_config", hidden_act="gelu", hidden_activation=None, rope_scaling=None),
        changed(PUBLISHED_1, "text_config", rope_theta=5000.0, max_length=20, top_k=50, pruned_heads={}),
        changed(PUBLISHED_1, "text_config", rope_parameters={"rope_theta": 7.0, "rope_type": "default"}),
        changed(PUBLISHED_2, "text_config", head_dim=128, query_pre_attn_scalar=144, sliding_window=64),
        changed(PUBLISHED_2, "text_config", layer_types=["sliding_attention", "full_attention"] * 13),
        changed(PUBLISHED_2, "text_config", final_logit_softcapping=None, attn_logit_softcapping=None),
        changed(PUBLISHED_1, "text_config", head_dim=128),
        without(PUBLISHED_1, "text_config", "model_type"),
        without(PUBLISHED_1, "vision_config", "patch_size"),
    ],
)
def test_files_mean_what_they_mean_to_transformers(tmp_path: Path, config: Json) -> None:
    assert_same_as_transformers(read_config(write(tmp_path, config)), tmp_path)


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
    assert read_config(write(tmp_path, PUBLISHED_1)) == presets.paligemma_3b(224)
    assert read_config(write(tmp_path, PUBLISHED_2)) == presets.paligemma2_3b(448)


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
    config = changed(without(PUBLISHED_1, None, "image_token_index"), None, image_token_id=77)
    assert read_config(write(tmp_path, config)).image_token_index == 77


@pytest.mark.parametrize(
    ("section", "values", "words"),
    [
        (None, {"model_type": "llava"}, "model_type is 'llava'"),
        (None, {"projection_dim": 2304}, "projection_dim is 2304"),
        (None, {"quantization_config": {"bits": 4}}, "quantization_config"),
        (None, {"tie_word_embeddings": False}, "tie_word_embeddings is False"),
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
        ("text_config", {"num_key_value_heads": 3}, "num_attention_heads is 8, no multiple"),
        ("text_config", {"head_dim": 255}, "head_dim is 255"),
        ("text_config", {"rms_norm_eps": 0}, "rms_norm_eps is 0"),
        ("text_config", {"rms_norm_eps": 10**400}, "rms_norm_eps"),
        ("text_config", {"rope_theta": False}, "rope_theta is False"),
        ("text_config", {"attention_bias": True}, "attention_bias is True"),
        ("text_config", {"hidden_activation": "gelu"}, "hidden_activation is 'gelu'"),
        ("text_config", {"hidden_act": "silu"}, "hidden_act is 'silu'"),
        ("text_config", {"use_bidirectional_attention": False}, "use_bidirectional_attention is False"),
        ("text_config", {"tie_word_embeddings": False}, "text_config.tie_word_embeddings"),
        ("text_config", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling.type is 'linear'"),
        ("text_config", {"rope_parameters": {"rope_type": "yarn"}}, "rope_parameters.rope_type is 'yarn'"),
        ("text_config", {"rope_parameters": {"full_attention": {}}}, "not understood: full_attention"),
        ("text_config", {"rope_parameters": {"rope_theta": 1.0}, "rope_theta": 2.0}, "given twice"),
        ("text_config", {"rope_parameters": 3}, "rope_parameters must be an object"),
        ("text_config", {"sliding_windw": 4096}, "not understood: sliding_windw"),
        ("text_config", {"final_logit_softcapping": 30.0}, "not understood: final_logit_softcapping"),
        ("text_config", {"pruned_heads": {"0": [1]}}, "pruned_heads"),
        ("vision_config", {"model_type": "clip_vision_model"}, "vision_config.model_type"),
        ("vision_config", {"hidden_act": "gelu"}, "vision_config.hidden_act is 'gelu'"),
        ("vision_config", {"num_channels": 1}, "num_channels is 1"),
        ("vision_config", {"image_size": [224, 224]}, "image_size is [224, 224]"),
        ("vision_config", {"image_size": 13}, "image_size is 13, less than patch_size 14"),
        ("vision_config", {"image_size": 10**6, "patch_size": 1}, "patches"),
        ("vision_config", {"num_attention_heads": 7}, "hidden_size is 1152, no multiple"),
        ("vision_config", {"vision_use_head": "yes"}, "vision_use_head"),
        ("vision_config", {"spatial_merge": 2}, "not understood: spatial_merge"),
    ],
)
def test_refusals_name_the_key(tmp_path: Path, section: str | None, values: Json, words: str) -> None:
    folder = write(tmp_path, changed(PUBLISHED_1, section, **values))
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
    assert_refused(write(tmp_path, changed(PUBLISHED_2, "text_config", **values)), words)


def test_a_missing_image_token_is_never_guessed(tmp_path: Path) -> None:
    assert_refused(write(tmp_path, without(PUBLISHED_1, None, "image_token_index")), "tokenizer.json")


def test_no_window_makes_every_layer_global(tmp_path: Path) -> None:
    config = changed(PUBLISHED_2, "text_config", sliding_window=None, layer_types=["full_attention"] * 26)
    assert read_config(write(tmp_path, config)).text_config.window(0) is None


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not valid JSON at line 1, column 1"),
        (b"{", "not valid JSON"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'{"model_type": "paligemma", "x": NaN}', "NaN"),
        (b'{"x": -Infinity}', "Infinity"),
        (b'{"x": 1e999}', "too large"),
        (b'{"x": ' + b"9" * 5000 + b"}", "too long"),
        (b'{"model_type": 1, "model_type": "paligemma"}', "'model_type' stands twice"),
        (b'{"x": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"x": "\xff"}', "not UTF-8"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"{}" + b" " * MAX_CONFIG_BYTES, "larger than"),
        (b'{"model_type": "a\\n\\u001b[31m\\ud800"}', "model_type is 'a\\n\\x1b[31m\\ud800'"),
        (b"{}", "model_type is missing"),
    ],
)
def test_files_that_are_no_config(tmp_path: Path, data: bytes, words: str) -> None:
    assert_refused(write(tmp_path, data), words)


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
