"""The published sizes: each tensor's name and shape against transformers, on the meta device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from paligemma_onnx.model import presets
from paligemma_onnx.model.config import PaliGemmaConfig
from paligemma_onnx.model.skeleton import meta_model

# Files store 257,216 rows of the embedding, 64 more than the quoted parameter counts include.
STORED = [
    (presets.paligemma_3b(224), 2_923_466_480),
    (presets.paligemma_3b(448), 2_924_351_216),
    (presets.paligemma_3b(896), 2_927_890_160),
    (presets.paligemma2_3b(224), 3_032_242_416),
    (presets.paligemma2_10b(224), 9_662_638_832),
    (presets.paligemma2_28b(224), 27_650_487_024),
]


@pytest.mark.parametrize(("config", "count"), STORED)
def test_stored_parameters(config: PaliGemmaConfig, count: int) -> None:
    assert sum(weight.numel() for weight in meta_model(config).parameters()) == count


def transformers_model(config: PaliGemmaConfig) -> Any:
    vision, text = config.vision_config, config.text_config
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    theirs = transformers.PaliGemmaConfig(
        vision_config={name: getattr(vision, name) for name in (*names, "image_size", "patch_size")}
        | {"model_type": "siglip_vision_model", "vision_use_head": False},
        text_config={
            name: getattr(text, name)
            for name in (*names, "model_type", "vocab_size", "num_key_value_heads", "head_dim")
        },
        projection_dim=text.hidden_size,
    )
    with torch.device("meta"):
        return transformers.PaliGemmaForConditionalGeneration(theirs)


@pytest.mark.parametrize("config", [STORED[0][0], STORED[3][0], STORED[5][0]])
def test_every_name_and_shape_is_transformers(config: PaliGemmaConfig) -> None:
    theirs = {
        name.removeprefix("model."): weight.shape
        for name, weight in transformers_model(config).named_parameters()
    }
    theirs.pop("lm_head.weight", None)  # tied to the embedding
    assert {name: weight.shape for name, weight in meta_model(config).named_parameters()} == theirs
