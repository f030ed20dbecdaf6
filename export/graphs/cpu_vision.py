"""Vision encoder for CPUs, which computes attention in tiles.

Attention in operators of the ONNX standard holds the scores of every patch with every patch in all heads.
They take 1 GiB for an image of 896 pixels. `MultiHeadAttention`, an operator of onnxruntime, computes the
scores of a few patches at a time and never holds all of them (FlashAttention, arXiv 2205.14135).

Additions and norms stay separate operators. `SkipLayerNormalization`, which adds and normalises, takes twice
their time in onnxruntime 1.32, and its rounding errors are ten times larger.

Shapes: docs/notation.md. D and A are the sizes of the tower.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor

from paligemma_onnx.model.paligemma import PaliGemma
from paligemma_onnx.model.siglip import Attention, EncoderLayer

from .onnx_ops import apply_operator


def encode_image(model: PaliGemma, pixel_values: Tensor) -> Tensor:
    """Encode images: float32[M, 3, S, S] -> float32[M, I, width of the decoder]."""
    tower = model.vision_tower
    x: Tensor = tower.embeddings(pixel_values)
    for module in tower.encoder.layers:
        layer = cast("EncoderLayer", module)
        x = x + _attend(layer.layer_norm1(x), layer.self_attn)
        x = x + layer.mlp(layer.layer_norm2(x))
    features: Tensor = model.multi_modal_projector.linear(tower.post_layernorm(x))
    return features


def _attend(normed: Tensor, attention: Attention) -> Tensor:
    """Let every patch attend to every patch of its image: float32[M, I, D] -> the same shape."""
    query, key, value = attention.q_proj(normed), attention.k_proj(normed), attention.v_proj(normed)
    attributes = {"num_heads": attention.num_heads, "scale": attention.head_dim**-0.5}
    (mixed,) = apply_operator(
        "com.microsoft::MultiHeadAttention", (query, key, value), attributes, like=(query,)
    )
    attended: Tensor = attention.out_proj(mixed)
    return attended
