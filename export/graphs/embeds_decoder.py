"""Graphs that other tools expect: an embedding, and one decoder for both prefill and decode.

The decoder takes embedded tokens, an attention mask and positions, and a cache that grows. The rows of a
batch are padded on the left, so the last token of every row is in the last column, and the slots of the cache
are the columns of the mask.

With an empty cache (P = 0) the tokens are a prefix and see each other in both directions. With a cache a call
adds one token (L = 1) to each row, which sees all earlier tokens. Both are the same rule: a token sees every
slot that is not padding. Gemma 2's sliding window limits only a token that is added to a cache.

transformers.js 4.3 passes the mask of padding with the prompt only: with each added token it passes a mask of
ones, and counts positions over it (generic_text_to_text_forward in src/models/modeling_utils.js). So the
decoder marks slots of padding in the cache, hides them, and does not count them.

Shapes: docs/notation.md.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from paligemma_onnx.model.cache import KeyValue
from paligemma_onnx.model.config import TextConfig
from paligemma_onnx.model.gemma import DecoderLayer
from paligemma_onnx.model.paligemma import PaliGemma

# Every element of the key of a slot of padding in the first layer. A 16-bit float also holds the value, and
# keys of models are far smaller.
PADDING_KEY = 2.0**15


def embed_tokens(model: PaliGemma, input_ids: Tensor) -> Tensor:
    """Embed ids and scale the vectors: int64[B, L] -> float32[B, L, D].

    The caller replaces the vectors of image tokens, so the vector of an image token has no meaning. Some
    checkpoints have no row for the image token, and its id is replaced.
    """
    config = model.config
    if config.image_token_index >= config.text_config.vocab_size:
        input_ids = torch.where(input_ids == config.image_token_index, 0, input_ids)
    return model.language_model.embed(input_ids, torch.float32)


def embed_and_merge(model: PaliGemma, input_ids: Tensor, image_features: Tensor) -> Tensor:
    """Embed ids, and put the features of images in the places of the image tokens.

    Args:
        model: the traced model.
        input_ids: int64[B, L].
        image_features: float32[M * I, D], the features of all images in the order of the image tokens. After
            the first call of an answer there are none (M = 0).

    Returns:
        float32[B, L, D].
    """
    text = embed_tokens(model, input_ids)
    is_image = input_ids == model.config.image_token_index
    # The number of image tokens up to each token. Features are counted from 1: row 0 stands for no feature.
    # int32, because tract takes int64 for sizes of tensors and cannot add them up.
    order = is_image.flatten().to(torch.int32).cumsum(0, dtype=torch.int32)
    padded = torch.cat([text.new_zeros(1, text.shape[2]), image_features])
    features = padded.index_select(0, order * is_image.flatten()).view_as(text)
    return torch.where(is_image[:, :, None], features, text)


def encode_image_rows(model: PaliGemma, pixel_values: Tensor) -> Tensor:
    """Return the features of images, one after the other: float32[M, 3, S, S] -> float32[M * I, D]."""
    return model.encode_image(pixel_values).flatten(0, 1)


def decode_embeds(
    model: PaliGemma, inputs_embeds: Tensor, attention_mask: Tensor, position_ids: Tensor, *past: Tensor
) -> tuple[Tensor, ...]:
    """Append tokens to each row: L tokens to an empty cache, or one token to a cache of P slots.

    Args:
        model: the traced model, whose rotary angles are tables.
        inputs_embeds: float32[B, L, D], image features and scaled embeddings, padded on the left.
        attention_mask: int64[B, P + L], 0 for padding.
        position_ids: int64[B, L]. Only differences matter, so positions may count from 0 or from 1.
        past: key and value of each layer in turn, float32[B, K, P, H].

    Returns:
        Logits float32[B, 1, V] for the token that follows each row, and the cache of P + L slots.
    """
    decoder, past_slots = model.language_model, past[0].shape[2]
    unmarked = torch.zeros_like(position_ids, dtype=past[0].dtype)
    marked = torch.cat([past[0][:, 0, :, 0], unmarked], dim=1) == PADDING_KEY  # [B, P + L]
    positions = position_ids - (marked & (attention_mask != 0)).sum(dim=1, keepdim=True)
    rotation = decoder.rotation(positions, decoder.frequencies)
    visible = ((attention_mask != 0) & ~marked)[:, None, None, :]  # [B, 1, 1, P + L]
    padding = attention_mask[:, None, past_slots:, None] == 0  # [B, 1, L, 1]
    recent = _recent(visible, past_slots, decoder.config)
    x, cache = inputs_embeds, list[Tensor]()
    for index, module in enumerate(decoder.layers):
        layer, layer_past = cast("DecoderLayer", module), KeyValue(*past[2 * index : 2 * index + 2])
        query, new = layer.self_attn.project(layer.input_layernorm(x), rotation)
        if index == 0:
            new = new._replace(key=torch.where(padding, PADDING_KEY, new.key))
        present = KeyValue(*(torch.cat(pair, dim=2) for pair in zip(layer_past, new, strict=True)))
        mask = visible if decoder.config.window(index) is None else recent
        x = layer.add_to_stream(x, layer.self_attn.attend(query, present, mask))
        cache += present
    return decoder.logits(x[:, -1])[:, None], *cache


def _recent(visible: Tensor, past_slots: int, config: TextConfig) -> Tensor:
    """Return the mask of the sliding layers, bool[B, 1, 1, P + L].

    A single token in slot P sees the last `sliding_window` slots, including slot P. Without a cache (P = 0)
    every slot satisfies the comparison, so the prefix stays bidirectional over its whole length.
    """
    if config.sliding_window is None:
        return visible
    slot = torch.arange(visible.shape[3], device=visible.device)
    return visible & (slot > past_slots - config.sliding_window)
