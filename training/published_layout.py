"""Layout of published PaliGemma checkpoints: parameter names, config.json, tokenizer, image settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from tokenizers import Tokenizer

from paligemma_onnx.model.config import PaliGemmaConfig

# Prefixes of this project's parameter names -> published prefixes. model/checkpoint/tensor_names.py inverts
# them.
_PREFIXES = {
    "language_model.": "language_model.model.",
    "vision_tower.": "vision_tower.vision_model.",
}


def published_name(name: str) -> str:
    """Return the name of a parameter in published files."""
    for prefix, published_prefix in _PREFIXES.items():
        if name.startswith(prefix):
            return published_prefix + name.removeprefix(prefix)
    return name


def published_config(config: PaliGemmaConfig) -> dict[str, object]:
    """Return the content of config.json, in a form that transformers reads."""
    text, vision = asdict(config.text_config), asdict(config.vision_config)
    del text["tied_head"]  # a published output head is always tied
    if text["model_type"] == "gemma":
        del text["query_pre_attn_scalar"]  # Gemma 1 always uses head_dim
    elif text["query_pre_attn_scalar"] == int(text["query_pre_attn_scalar"]):
        text["query_pre_attn_scalar"] = int(text["query_pre_attn_scalar"])  # transformers requires an integer
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


def write_processor_files(
    folder: Path, tokenizer: Tokenizer, *, image_size: int, patch_size: int = 14
) -> None:
    """Write the tokenizer and the image settings in a form that transformers reads.

    Writes tokenizer.json, tokenizer_config.json, special_tokens_map.json and preprocessor_config.json.

    Args:
        folder: an existing folder.
        tokenizer: a tokenizer of `tokenizer.assemble_tokenizer`.
        image_size: side of the model's images in pixels.
        patch_size: side of a patch in pixels.
    """
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {f"{name}_token": f"<{name}>" for name in ("bos", "eos", "pad", "unk")}
    write_json(folder / "special_tokens_map.json", special | {"additional_special_tokens": ["<image>"]})
    write_json(
        folder / "tokenizer_config.json",
        special
        | {
            "additional_special_tokens": ["<image>"],
            "add_bos_token": tokenizer.post_processor is not None,
            "add_eos_token": False,
            "clean_up_tokenization_spaces": False,
            "processor_class": "PaliGemmaProcessor",
            "tokenizer_class": "GemmaTokenizer",
        },
    )
    write_json(
        folder / "preprocessor_config.json",
        {
            "do_convert_rgb": None,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_processor_type": "SiglipImageProcessor",
            "image_seq_length": (image_size // patch_size) ** 2,
            "image_std": [0.5, 0.5, 0.5],
            "processor_class": "PaliGemmaProcessor",
            "resample": 3,  # PIL.Image.Resampling.BICUBIC
            "rescale_factor": 1 / 255,
            "size": {"height": image_size, "width": image_size},
        },
    )


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Write indented JSON, with a newline at the end."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
