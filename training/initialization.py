"""Initial weights: scaled random matrices, smooth location embeddings and a whitened patch embedding.

Shapes: docs/notation.md.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from paligemma_onnx.model.config import PaliGemmaConfig
from paligemma_onnx.model.paligemma import PaliGemma
from paligemma_onnx.model.rotary import inverse_frequencies
from paligemma_onnx.model.skeleton import meta_model

from .tasks import LOCATIONS

LOCATION_HALF_WAVES = 48.0  # of the fastest sine over all location tokens; tokens 10 apart remain similar
VARIANCE_OFFSET = 0.02  # added to each component's variance, so that whitening does not amplify noise
POSITION_AMPLITUDE = 0.5  # of the sines of the position embedding
MAX_HALF_WAVE = 16.0  # patches per half-wave of the slowest sine of the position embedding; the fastest has 1


def initial_model(config: PaliGemmaConfig, first_location: int) -> PaliGemma:
    """Create a model with initial weights, drawn from torch's global random generator.

    Args:
        config: sizes of the model.
        first_location: id of `<loc0000>`.
    """
    model = meta_model(config).to_empty(device="cpu").requires_grad_(True).train()
    text, vision = config.text_config, config.vision_config
    model.language_model.frequencies = inverse_frequencies(text.head_dim, text.rope_theta)
    for name, weight in model.named_parameters():
        initialize_parameter(name, weight)
    with torch.no_grad():
        # The last projection of each layer starts small, so that the residual stream starts close to the
        # input.
        for name, weight in model.named_parameters():
            if name.endswith(("out_proj.weight", "fc2.weight")):
                weight.div_(math.sqrt(2 * vision.num_hidden_layers))
            elif name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.div_(math.sqrt(2 * text.num_hidden_layers))
        embedding = model.language_model.embed_tokens.weight
        embedding[first_location : first_location + LOCATIONS] = smooth_rows(LOCATIONS, text.hidden_size)
        patches = vision.image_size // vision.patch_size
        positions = model.vision_tower.embeddings.position_embedding.weight
        positions.copy_(POSITION_AMPLITUDE * grid_waves(patches, vision.hidden_size))
    return model


def whiten_patches(model: PaliGemma, pixel_values: Tensor) -> None:
    """Set the patch embedding to the principal components of image patches, scaled to about unit variance.

    Neighbouring pixels are nearly equal, so random filters mostly measure a patch's mean colour and hardly
    respond to the edges of shapes and letters. After whitening (arXiv 2404.00498, section 3.2), both have
    about the same size.

    Args:
        model: a model whose patch embedding is replaced.
        pixel_values: float[M, 3, S, S], a sample of training images.
    """
    embedding = model.vision_tower.embeddings.patch_embedding
    patches = F.unfold(pixel_values.float(), embedding.patch_size, stride=embedding.patch_size)
    patches = patches.transpose(1, 2).flatten(0, 1)  # [M * I, 3 * patch_size * patch_size]
    mean = patches.mean(dim=0)
    variances, components = torch.linalg.eigh(torch.cov(patches.T))  # in ascending order of variance
    width = len(embedding.bias)
    largest, filters = variances[-width:], components[:, -width:].T
    scaled = filters / (largest + VARIANCE_OFFSET).sqrt()[:, None]
    with torch.no_grad():
        embedding.weight.copy_(scaled.view_as(embedding.weight))
        embedding.bias.copy_(-scaled @ mean)


def initialize_parameter(name: str, weight: Tensor) -> None:
    """Fill a parameter in place: norms as identities, biases with 0, matrices to preserve variance."""
    if "norm" in name:
        # SigLIP's LayerNorm stores its gain, Gemma's RMSNorm stores gain - 1.
        is_gain = name.endswith("weight") and ("layer_norm" in name or "post_layernorm" in name)
        torch.nn.init.constant_(weight, 1.0 if is_gain else 0.0)
    elif name.endswith("bias"):
        torch.nn.init.zeros_(weight)
    elif "embed_tokens" in name:
        # Gemma multiplies embeddings by sqrt(D), so the input of the first layer has unit variance.
        torch.nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
    else:
        torch.nn.init.normal_(weight, std=math.prod(weight.shape[1:]) ** -0.5)


def smooth_rows(rows: int, width: int) -> Tensor:
    """Return rows of norm 1 that change slowly from each row to the next: float32[rows, width].

    Location tokens are ordered, so neighbouring ones should have similar embeddings. Sines of many
    wavelengths, mixed by a random rotation, make the logits of locations fall off smoothly around the
    highest one from the first step.
    """
    position = torch.arange(rows)[:, None] / rows  # from 0 to 1
    waves = 0.5 * LOCATION_HALF_WAVES ** torch.linspace(0.1, 1.0, width // 2)
    angles = 2 * math.pi * position * waves
    features = torch.cat([angles.cos(), angles.sin()], dim=1) * (2 / width) ** 0.5
    rotation, _ = torch.linalg.qr(torch.randn(width, width))
    rotated: Tensor = features @ rotation
    return rotated


def grid_waves(side: int, width: int) -> Tensor:
    """Return sines and cosines along both axes of a grid of patches: float32[side * side, width], in [-1, 1].

    Args:
        side: patches per row and column.
        width: a multiple of 4; the first half encodes the row, the second half the column.
    """
    waves = 1 / MAX_HALF_WAVE ** torch.linspace(0, 1, width // 4)
    angles = 2 * math.pi * torch.arange(side)[:, None] * waves / 2
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)  # [side, width / 2]
    rows, columns = axis[:, None].expand(-1, side, -1), axis[None].expand(side, -1, -1)
    return torch.cat([rows, columns], dim=2).flatten(0, 1)
