"""Weights before training."""

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

WAVES = 48.0  # of the fastest sine along the location tokens: two tokens 10 apart still look alike
LEAST_VARIANCE = 0.02  # added to a component's own, so that noise is not blown up; of values in [-1, 1]
POSITIONS = 0.5  # amplitude of the sines that place the patches
LONGEST_WAVE = 16.0  # patches, of the slowest of these sines


def fresh_model(config: PaliGemmaConfig, first_location: int) -> PaliGemma:
    """A model ready to train, from torch's current seed.

    Args:
        config: its sizes.
        first_location: id of `<loc0000>`.
    """
    model = meta_model(config).to_empty(device="cpu").requires_grad_(True).train()
    text, vision = config.text_config, config.vision_config
    model.language_model.frequencies = inverse_frequencies(text.head_dim, text.rope_theta)
    for name, weight in model.named_parameters():
        initialise(name, weight)
    with torch.no_grad():
        # A layer's last projection is small, so that the residual stream starts as the input.
        for name, weight in model.named_parameters():
            if name.endswith(("out_proj.weight", "fc2.weight")):
                weight.div_(math.sqrt(2 * vision.num_hidden_layers))
            elif name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.div_(math.sqrt(2 * text.num_hidden_layers))
        table = model.language_model.embed_tokens.weight
        table[first_location : first_location + LOCATIONS] = smooth_rows(LOCATIONS, text.hidden_size)
        side = vision.image_size // vision.patch_size
        places = model.vision_tower.embeddings.position_embedding.weight
        places.copy_(POSITIONS * grid_waves(side, vision.hidden_size))
    return model


def whiten_patches(model: PaliGemma, pixel_values: Tensor) -> None:
    """Let the patch embedding start with the principal components of pictures, each scaled to the same size.

    Neighbouring pixels are nearly equal, so random filters all see little but a patch's mean colour, and what
    makes a shape or a letter drowns. Whitened (arXiv 2404.00498, section 3.2), edges are as loud as colours.

    Args:
        model: whose patch embedding is set.
        pixel_values: float[B, 3, S, S], some pictures.
    """
    embedding = model.vision_tower.embeddings.patch_embedding
    patches = F.unfold(pixel_values.float(), embedding.patch_size, stride=embedding.patch_size)
    patches = patches.transpose(1, 2).flatten(0, 1)  # [B * I, 3 * P * P]
    mean = patches.mean(dim=0)
    values, vectors = torch.linalg.eigh(torch.cov(patches.T))
    width = len(embedding.bias)
    strongest, filters = values[-width:], vectors[:, -width:].T
    scaled = filters / (strongest + LEAST_VARIANCE).sqrt()[:, None]
    with torch.no_grad():
        embedding.weight.copy_(scaled.view_as(embedding.weight))
        embedding.bias.copy_(-scaled @ mean)


def initialise(name: str, weight: Tensor) -> None:
    """Fill one parameter: norms start as identities, biases at 0, matrices keep a signal's size."""
    if "norm" in name:
        # SigLIP's LayerNorm stores its gain, Gemma's RMSNorm the gain minus 1.
        is_gain = name.endswith("weight") and ("layer_norm" in name or "post_layernorm" in name)
        torch.nn.init.constant_(weight, 1.0 if is_gain else 0.0)
    elif name.endswith("bias"):
        torch.nn.init.zeros_(weight)
    elif "embed_tokens" in name:
        torch.nn.init.normal_(
            weight, std=weight.shape[1] ** -0.5
        )  # sqrt(D) times this enters the first layer
    else:
        torch.nn.init.normal_(weight, std=math.prod(weight.shape[1:]) ** -0.5)


def smooth_rows(rows: int, width: int) -> Tensor:
    """Rows of norm about 1 that change slowly from one to the next: float32[rows, width].

    Locations are an order, not names. Sines of many lengths, mixed by a random rotation, make the
    score of a location fall off smoothly around the best one from the first step on.
    """
    at = torch.arange(rows)[:, None] / rows  # of the way
    waves = 0.5 * WAVES ** torch.linspace(0.1, 1.0, width // 2)
    turns = 2 * math.pi * at * waves
    features = torch.cat([turns.cos(), turns.sin()], dim=1) * (2 / width) ** 0.5
    rotation, _ = torch.linalg.qr(torch.randn(width, width))
    rows_of_norm_1: Tensor = features @ rotation
    return rows_of_norm_1


def grid_waves(side: int, width: int) -> Tensor:
    """Sines and cosines along x and y of a grid of patches: float32[side * side, width], each of size 1."""
    waves = 1 / LONGEST_WAVE ** torch.linspace(0, 1, width // 4)
    turns = 2 * math.pi * torch.arange(side)[:, None] * waves / 2
    along = torch.cat([turns.sin(), turns.cos()], dim=1)  # [side, width / 2]
    rows, columns = along[:, None].expand(-1, side, -1), along[None].expand(side, -1, -1)
    return torch.cat([rows, columns], dim=2).flatten(0, 1)
