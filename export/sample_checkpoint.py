"""A checkpoint with random weights in the published layout: for the demo, tests and benchmarks.

Random weights say random words, but every shape, name and file is what a published checkpoint has, so
everything from the export to the answer can be tried without downloading one.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file

from paligemma_onnx.model.config import PaliGemmaConfig
from paligemma_onnx.model.load import skeleton

from .sample_tokenizer import build_sample_tokenizer, write_sample_tokenizer

LOCATIONS, SEGMENTS = 1024, 128  # `<loc>` and `<seg>` tokens, as PaliGemma has
POSITION_SPREAD = 0.02  # standard deviation
PUBLISHED_NAMES = {"language_model.": "language_model.model.", "vision_tower.": "vision_tower.vision_model."}


def write_sample_checkpoint(
    config: PaliGemmaConfig, folder: Path, *, seed: int = 0, dtype: torch.dtype = torch.bfloat16
) -> None:
    """Write config.json, model.safetensors, the sample tokenizer and the processor's settings.

    Args:
        config: the sizes; the tokenizer gets as many pieces as put `<image>` at its image_token_index.
        folder: a new folder.
        seed: of the weights.
        dtype: they are stored in.
    """
    folder.mkdir(parents=True)
    pieces = config.image_token_index - LOCATIONS - SEGMENTS
    adds_bos = config.text_config.model_type == "gemma"  # as PaliGemma 1's tokenizer does, 2's does not
    tokenizer = build_sample_tokenizer(pieces, LOCATIONS, SEGMENTS, adds_bos=adds_bos)
    generator = torch.Generator().manual_seed(seed)
    weights = {
        _published(name): _random(name, tuple(weight.shape), generator).to(dtype)
        for name, weight in skeleton(config).named_parameters()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(_as_published(config), indent=2) + "\n", encoding="utf-8")
    vision = config.vision_config
    write_sample_tokenizer(folder, tokenizer, image_size=vision.image_size, patch_size=vision.patch_size)


def _published(name: str) -> str:
    for ours, theirs in PUBLISHED_NAMES.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


def _random(name: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Spread so that signals keep their size through every layer, and different inputs different outputs."""
    values = torch.randn(shape, generator=generator)
    if "embed" in name:
        return values * (1.0 if "position" not in name else POSITION_SPREAD)
    if len(shape) == 1:  # gains and biases: SigLIP's gains are centred on 1, Gemma's on 0
        centre = 1.0 if "layer_norm" in name and name.endswith("weight") and "vision" in name else 0.0
        return centre + 0.1 * values
    return values / math.sqrt(math.prod(shape[1:]))


def _as_published(config: PaliGemmaConfig) -> dict[str, object]:
    text, vision = asdict(config.text_config), asdict(config.vision_config)
    if text["model_type"] == "gemma":
        del text["query_pre_attn_scalar"]  # Gemma's is always head_dim
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
