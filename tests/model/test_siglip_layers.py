"""SigLIP module by module against transformers, on the same random weights.

Both sides call the same torch operators, and agreed to the last bit when measured. The bound allows for a
library that sums in another order for one side (float32 rounds by 6e-8). A GELU in its erf form, a missing
scale or another epsilon causes an error above 1e-4.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from closeness import assert_close
from paired_models import paired_models
from torch import Tensor

from paligemma_onnx.model.config import VisionConfig
from paligemma_onnx.model.siglip import PatchEmbedding

CASE = "gemma_two_kv_heads"  # 16 patches of 14 pixels
BOUND = 1e-6  # of the largest value; measured: 0, by hand 1.4e-7


def random_images(side: int, count: int = 2) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


def patches(width: int = 24) -> Tensor:
    return torch.randn(2, 16, width, generator=torch.Generator().manual_seed(2))


def test_patch_embedding() -> None:
    ours, theirs = paired_models(CASE).model.vision_tower, paired_models(CASE).reference.model.vision_tower
    pixels = random_images(56)
    by_convolution = theirs.embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
    assert_close("patches", ours.embeddings.patch_embedding(pixels), by_convolution, BOUND)
    assert_close("patches with positions", ours.embeddings(pixels), theirs.embeddings(pixels), BOUND)


def test_patches_are_cut_row_by_row_and_a_rest_is_dropped() -> None:
    """By hand: a 7 x 7 image holds 3 x 3 patches of 2 x 2; its last row and column belong to no patch."""
    config = VisionConfig(5, 8, 1, 1, image_size=7, patch_size=2)
    embedding = PatchEmbedding(config)
    torch.nn.init.normal_(embedding.weight)
    torch.nn.init.normal_(embedding.bias)
    pixels = random_images(7, count=1)
    weight, bias = embedding.weight.detach().numpy(), embedding.bias.detach().numpy()
    by_hand = [
        [
            (weight[width] * pixels[0, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].numpy()).sum()
            + bias[width]
            for width in range(5)
        ]
        for row in range(3)
        for column in range(3)
    ]
    assert_close("patches by hand", embedding(pixels)[0], np.array(by_hand), BOUND)


@pytest.mark.parametrize("layer", [0, 1])
def test_layer(layer: int) -> None:
    ours = paired_models(CASE).model.vision_tower.encoder.layers[layer]
    theirs = paired_models(CASE).reference.model.vision_tower.encoder.layers[layer]
    x = patches()
    assert_close("layer norm", ours.layer_norm1(x), theirs.layer_norm1(x), BOUND)
    assert_close("attention", ours.self_attn(x), theirs.self_attn(x)[0], BOUND)
    assert_close("mlp", ours.mlp(x), theirs.mlp(x), BOUND)
    assert_close("layer", ours(x), theirs(x, None), BOUND)


@pytest.mark.parametrize("name", ["gemma_one_kv_head", "gemma_two_kv_heads", "gemma2_window"])
def test_tower_and_projector(name: str) -> None:
    ours, theirs = paired_models(name).model, paired_models(name).reference
    pixels = random_images(theirs.config.vision_config.image_size)
    tower = theirs.model.vision_tower(pixels).last_hidden_state
    assert_close(f"{name} tower", ours.vision_tower(pixels), tower, BOUND)
    assert_close(
        f"{name} projector",
        ours.multi_modal_projector(tower),
        theirs.model.multi_modal_projector(tower),
        BOUND,
    )
    features = theirs.get_image_features(pixels).pooler_output
    assert_close(f"{name} image features", ours.encode_image(pixels), features, BOUND)
