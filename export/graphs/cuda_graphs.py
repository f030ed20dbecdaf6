"""Graphs for CUDA, with matrices in half precision, norms and residual stream in float32, and few kernels.

A GPU reads the weights of a small decoder in two milliseconds, and every kernel takes two microseconds to
start. A decode step therefore consists of few kernels. One matrix product computes query, key and value. One
operator adds to the residual stream and applies the norm that follows the addition. One operator,
`GroupQueryAttention`, applies the rotary embedding, writes into the cache and attends. The CUDA kernels of
`GroupQueryAttention` are causal, which makes no difference for a single token. A prefill, whose prefix is
bidirectional, uses the standard operators `TensorScatter` and `Attention`.

Precision of each part:

    float32                residual stream, norms, patch embedding, positions; softmax and sums inside kernels
    bfloat16 or float16    matrix products, the tensors between matrix products, KV cache
    float16                embedding and output head: the eight significant bits of bfloat16 cannot
                           distinguish the logits of different tokens, and the output of the last norm is
                           within the range of float16. The most likely tokens are scored again in float32.

Shapes: docs/notation.md.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from paligemma_onnx.model.attention import softcap
from paligemma_onnx.model.gemma import Gemma
from paligemma_onnx.model.paligemma import PaliGemma
from paligemma_onnx.model.siglip import EncoderLayer

from .cuda_attention import CudaDecodeAttention, CudaPrefillAttention
from .fused_layers import add_and_normalize, run_layers
from .onnx_ops import apply_operator

RESCORED_TOKENS = 32  # number of most likely tokens whose logits are computed again in float32


def encode_image(model: PaliGemma, pixel_values: Tensor) -> Tensor:
    """Encode images with few kernels: float32[M, 3, S, S] -> float32[M, I, D]."""
    tower, project = model.vision_tower, model.multi_modal_projector.linear
    dtype = project.weight.dtype
    x = tower.embeddings(pixel_values)
    for layer in tower.encoder.layers:
        x = _run_encoder_layer(x, cast("EncoderLayer", layer), dtype)
    features: Tensor = project(tower.post_layernorm(x).to(dtype)).float()
    return features


def prefill(
    model: PaliGemma,
    input_ids: Tensor,
    image_features: Tensor,
    text_lengths: Tensor,
    past_lengths: Tensor,
    *past: Tensor,
) -> tuple[Tensor, ...]:
    """Append image features and prompt tokens to the cache; return the logits and the cache.

    `in_place_decoder.decode_in_place` documents the arguments and results. Image features and logits are
    float32, the cache is half precision.
    """
    decoder = model.language_model
    text = decoder.embed(input_ids, torch.float32)
    x = torch.cat([image_features, text], dim=1)
    rows, tokens = x.shape[:2]
    added = image_features.shape[1] + text_lengths
    positions = past_lengths[:, None] + torch.arange(tokens, device=x.device)
    attention = CudaPrefillAttention(decoder, positions, past_lengths, past_lengths + added)
    x, update, cache = run_layers(decoder, x, past, attention)
    last = torch.arange(rows, device=x.device) * tokens + added - 1
    x, update = (tensor.flatten(0, 1).index_select(0, last) for tensor in (x, update))
    return _compute_logits(decoder, x, update), *cache


def decode_step(
    model: PaliGemma, input_ids: Tensor, past_lengths: Tensor, *past: Tensor
) -> tuple[Tensor, ...]:
    """Append one token to each row.

    Args:
        model: the traced model.
        input_ids: int64[B, 1], the id of the new token of each row.
        past_lengths: int64[B], slots of each row in use before the call.
        past: key and value of each layer in turn, half[B, K, C, H].

    Returns:
        Logits float32[B, V], and the cache.
    """
    decoder = model.language_model
    x = decoder.embed(input_ids, torch.float32)
    attention = CudaDecodeAttention(decoder, past_lengths, past[0])
    x, update, cache = run_layers(decoder, x, past, attention)
    return _compute_logits(decoder, x.flatten(0, 1), update.flatten(0, 1)), *cache


def _compute_logits(decoder: Gemma, x: Tensor, update: Tensor) -> Tensor:
    """Score every token: residual stream float32[B, D] and its last update -> float32[B, V].

    Half precision rounds a logit of 20 to a multiple of 1/64. The logits of different tokens may differ by
    less than 1/64, especially the logits of location tokens. The most likely tokens are therefore scored
    again in float32, from the rows of these tokens in the output head.
    """
    normed, _ = add_and_normalize(x, update, decoder.norm)
    head = decoder.head.weight
    half_logits = F.linear(normed.to(head.dtype), head)
    likely = half_logits.topk(min(RESCORED_TOKENS, len(head))).indices  # [B, 32]
    rescored = decoder.head(likely, torch.float32) @ normed[:, :, None]  # [B, 32, 1]
    logits = half_logits.float().scatter(1, likely, rescored.squeeze(2))
    return softcap(logits, decoder.config.final_logit_softcapping)


def _run_encoder_layer(x: Tensor, layer: EncoderLayer, dtype: torch.dtype) -> Tensor:
    """Run one layer of the vision tower: float32[M, I, D] -> the same shape."""
    attention, normed = layer.self_attn, layer.layer_norm1(x).to(dtype)
    query, key, value = attention.q_proj(normed), attention.k_proj(normed), attention.v_proj(normed)
    heads = attention.num_heads
    scale = attention.head_dim**-0.5
    attributes = {"q_num_heads": heads, "kv_num_heads": heads, "scale": scale, "is_causal": 0}
    (mixed,) = apply_operator("Attention", (query, key, value), attributes, like=(query,))
    x = x + attention.out_proj(mixed).float()
    mlp: Tensor = layer.mlp(layer.layer_norm2(x).to(dtype))
    return x + mlp.float()
