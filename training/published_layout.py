"""A model's names and sizes as published checkpoints write them, for who writes a checkpoint."""

from __future__ import annotations

from dataclasses import asdict

from paligemma_onnx.model.config import PaliGemmaConfig

_PREFIXES = {  # ours -> theirs; model/checkpoint/tensor_names.py reads them back
    "language_model.": "language_model.model.",
    "vision_tower.": "vision_tower.vision_model.",
}


def published_name(name: str) -> str:
    """Name of a parameter in published files."""
    for ours, theirs in _PREFIXES.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


def published_config(config: PaliGemmaConfig) -> dict[str, object]:
    """Content of config.json, which transformers reads too."""
    text, vision = asdict(config.text_config), asdict(config.vision_config)
    if text["model_type"] == "gemma":
        del text["query_pre_attn_scalar"]  # Gemma's is always head_dim
    elif text["query_pre_attn_scalar"] == int(text["query_pre_attn_scalar"]):
        text["query_pre_attn_scalar"] = int(text["query_pre_attn_scalar"])  # transformers takes no other
    return {
        "architectures": ["PaliGemmaForConditionalGeneration"],
        "model_type": "paligemma",
        "image_token_index": config.image_token_index,
        "projection_dim": text["hidden_size"],
        "text_config": {name: value for name, value in text.items() if value is not None},
        "vision_config": vision
        | {
            "model_type": "siglip_vision_model",
            "projection_dim": text["hidden_size"],
            "vision_use_head": False,
        },
    }
