"""Published config.json files, and functions that change them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Json = dict[str, Any]

# google/paligemma-3b-mix-224: sizes, legacy keys, and no image_size.
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
# A PaliGemma 2 as transformers 4.47 wrote it: the 2B decoder equals the class defaults, so most keys are
# missing; hidden_size of the top level is also the class default, which is wrong.
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


def write_config(folder: Path, config: Json | str | bytes) -> Path:
    """Write config.json and return its folder."""
    data = json.dumps(config) if isinstance(config, dict) else config
    (folder / "config.json").write_bytes(data if isinstance(data, bytes) else data.encode())
    return folder


def with_values(config: Json, section: str | None, **values: object) -> Json:
    """Return a copy with keys of one section set; None is the top level."""
    copy: Json = json.loads(json.dumps(config))
    (copy if section is None else copy[section]).update(values)
    return copy


def without_key(config: Json, section: str | None, key: str) -> Json:
    """Return a copy without a key of one section; None is the top level."""
    copy: Json = json.loads(json.dumps(config))
    del (copy if section is None else copy[section])[key]
    return copy
