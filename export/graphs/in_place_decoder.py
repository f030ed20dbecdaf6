"""Decoder that updates its KV cache in place: all slots exist from the start, and a call writes some slots.

The operator `TensorScatter` (ONNX 24) returns the cache with new values in the slots of new tokens. If input
and output of the operator are bound to the same memory, onnxruntime writes these slots and copies nothing.
The operator `Attention` (ONNX 24) then reads all C slots and masks the slots beyond the length of a row.
Masked slots must still hold finite numbers, because 0 * NaN is NaN.

One graph can therefore be both prefill and decode. A prefill adds many tokens to an empty cache. A decode
step adds one token to a cache that is not empty. In a prefill and in a decode step, a token sees all slots
that its row uses after the call, because a prefix is bidirectional, and because no token follows a single new
token. Only Gemma 2's sliding window needs a mask.

Shapes: docs/notation.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from paligemma_onnx.model.cache import KeyValue
from paligemma_onnx.model.config import TextConfig
from paligemma_onnx.model.gemma import DecoderLayer
from paligemma_onnx.model.paligemma import PaliGemma
from paligemma_onnx.model.rotary import Rotation, compute_rotation

from .onnx_ops import apply_operator

# A decode step folds query heads that share a key-value head into the token axis, as if these query heads
# were tokens of one head, so that onnxruntime reads the keys once for all folded heads. onnxruntime
# distributes the remaining heads over threads. PaliGemma 1, where eight query heads share one key-value head,
# has two remaining heads per row. A prefill folds no heads, because it reads the keys for many tokens at
# once.
MAX_FOLDED_HEADS = 4


def decode_in_place(
    model: PaliGemma,
    input_ids: Tensor,
    image_features: Tensor,
    text_lengths: Tensor,
    past_lengths: Tensor,
    *past: Tensor,
) -> tuple[Tensor, ...]:
    """Append N + T tokens to each empty row, or one token (N = 0) to each row that is not empty.

    Args:
        model: the traced model.
        input_ids: int64[B, T], padded on the right.
        image_features: float[B, N, D].
        text_lengths: int64[B], number of tokens of each row of input_ids without padding.
        past_lengths: int64[B], slots of each row in use before the call.
        past: key and value of each layer in turn, float[B, K, C, H].

    Returns:
        Logits float[B, V] for the token that follows the last token of each row, and the cache.
    """
    decoder, config = model.language_model, model.config.text_config
    text = decoder.embed(input_ids, image_features.dtype)
    x = torch.cat([image_features, text], dim=1)
    rows, tokens = x.shape[:2]
    added = image_features.shape[1] + text_lengths
    folded = torch.where(torch.full((), tokens) == 1, count_folded_heads(config), 1)
    lengths_after = past_lengths + added
    positions = past_lengths[:, None] + torch.arange(tokens, device=x.device)
    sliding_mask = None
    if config.sliding_window is not None:
        sliding_mask = _sliding_window_mask(
            past_lengths, tokens * folded, past[0].shape[2], config.sliding_window
        )
    rotation = compute_rotation(positions, decoder.frequencies)
    cache: list[Tensor] = []
    for index, module in enumerate(decoder.layers):
        layer, layer_past = cast("DecoderLayer", module), KeyValue(*past[2 * index : 2 * index + 2])
        attention, normed = layer.self_attn, layer.input_layernorm(x)
        query, key, value = attention.q_proj(normed), attention.k_proj(normed), attention.v_proj(normed)
        present = scatter_kv(layer_past, _rotate(key, rotation, config), value, past_lengths, config)
        query = fold_query_groups(_rotate(query, rotation, config), folded, config)
        mask = None if config.window(index) is None else sliding_mask
        mixed = attend(query, present, mask, lengths_after, config)
        attended = attention.o_proj(unfold_query_groups(mixed, folded, config))
        x = layer.add_to_stream(x, attended)
        cache += present
    last = torch.arange(rows, device=x.device) * tokens + added - 1
    logits = decoder.logits(x.flatten(0, 1).index_select(0, last))
    return logits, *cache


def scatter_kv(past: KeyValue, key: Tensor, value: Tensor, lengths: Tensor, config: TextConfig) -> KeyValue:
    """Return the cache with the keys and values of new tokens after the slots that each row uses.

    Args:
        past: the cache, float[B, K, C, H] each.
        key: float[B, L, K * H], rotated.
        value: float[B, L, K * H].
        lengths: int64[B], slots of each row in use before the call.
        config: configuration that has the number and the width of the heads.

    Returns:
        The cache, in the shape of `past`.
    """
    new = split_heads(key, config), split_heads(value, config)
    scattered = (
        apply_operator("TensorScatter", (cache, tokens, lengths), {"axis": 2}, like=(cache,))[0]
        for cache, tokens in zip(past, new, strict=True)
    )
    return KeyValue(*scattered)


def attend(
    query: Tensor, cache: KeyValue, mask: Tensor | None, lengths_after: Tensor, config: TextConfig
) -> Tensor:
    """Return the result of attention to the cache slots that are in use.

    Args:
        query: float[B, heads, tokens, H], with A heads and L tokens, or folded by `fold_query_groups`.
        cache: float[B, K, C, H] each.
        mask: bool[B, 1, tokens, C], true for the slots that a token may see. None: all slots in use.
        lengths_after: int64[B], slots of each row in use after the call.
        config: configuration that has the scale and the cap of attention scores.

    Returns:
        Sums of values, weighted by attention, in the shape of `query`.
    """
    attributes = {
        "scale": config.query_pre_attn_scalar**-0.5,
        "softcap": config.attn_logit_softcapping or 0.0,  # 0: no cap
        "is_causal": 0,
    }
    inputs = (query, *cache, mask, None, None, lengths_after)
    (mixed,) = apply_operator("Attention", inputs, attributes, like=(query,))
    return mixed


def count_folded_heads(config: TextConfig) -> int:
    """Return the number of query heads per key-value head that a decode step folds into the token axis."""
    return math.gcd(config.query_groups, MAX_FOLDED_HEADS)


def fold_query_groups(query: Tensor, folded: Tensor, config: TextConfig) -> Tensor:
    """Fold query heads into the token axis: [B, L, A * H] -> [B, A / folded, L * folded, H]."""
    rows, tokens = query.shape[:2]
    decode_folded = count_folded_heads(config)
    split = query.unflatten(2, (-1, decode_folded, config.head_dim))
    split = _reshape(query, (0, 0, -1, folded, config.head_dim), like=split).transpose(1, 2)
    joined = query.new_empty(rows, split.shape[1], tokens * decode_folded, config.head_dim)
    return _reshape(split, (0, 0, -1, config.head_dim), like=joined)


def unfold_query_groups(mixed: Tensor, folded: Tensor, config: TextConfig) -> Tensor:
    """Undo `fold_query_groups`: [B, A / folded, L * folded, H] -> [B, L, A * H]."""
    split = mixed.unflatten(2, (-1, count_folded_heads(config)))
    return _reshape(mixed, (0, 0, -1, folded, config.head_dim), like=split).transpose(1, 2).flatten(2)


def split_heads(x: Tensor, config: TextConfig) -> Tensor:
    """Return x with an axis for the heads: [B, L, heads * H] -> [B, heads, L, H]."""
    return torch.unflatten(x, 2, (-1, config.head_dim)).transpose(1, 2)


def _reshape(x: Tensor, shape: Sequence[int | Tensor], like: Tensor) -> Tensor:
    """Return x in a shape that is known only when the graph runs.

    Args:
        x: the tensor to reshape.
        shape: sizes of the axes. A size of 0 keeps the size of the same axis of x; -1 infers the size.
        like: tensor with the shape that the result has in a decode step. The tracer needs a fixed shape and
            derives the types of later values from it; trace.py removes these types.
    """
    (reshaped,) = apply_operator("Reshape", (x, _shape_tensor(shape)), {}, like=(like,))
    return reshaped


def _shape_tensor(shape: Sequence[int | Tensor]) -> Tensor:
    """Return the sizes as int64[rank].

    The result is concatenated from tensors, because a tensor of literals would become a weight of the graph.
    """
    sizes = [torch.full((1,), size) if isinstance(size, int) else size[None] for size in shape]
    return torch.cat(sizes)


def _sliding_window_mask(past_lengths: Tensor, tokens: Tensor, slots: int, window: int) -> Tensor:
    """Return a mask of the slots that a generated token sees: bool[B, 1, tokens, C].

    The mask follows the rule of model.mask.step_mask and is equal for all folded tokens. In a prefill,
    past_lengths is 0, and the mask hides nothing.
    """
    slot = torch.arange(slots, device=past_lengths.device)
    visible = (slot > past_lengths[:, None] - window)[:, None, None, :]
    (expanded,) = apply_operator("Expand", (visible, _shape_tensor((1, 1, tokens, 1))), {}, like=(visible,))
    return expanded


def _rotate(x: Tensor, rotation: Rotation, config: TextConfig) -> Tensor:
    """Apply rotary embedding as one operator: float[B, L, heads * H] -> the same shape."""
    attributes = {"num_heads": x.shape[2] // config.head_dim}
    angles = rotation.cos.squeeze(1), rotation.sin.squeeze(1)
    (rotated,) = apply_operator("RotaryEmbedding", (x, *angles), attributes, like=(x,))
    return rotated
