"""A cache that is updated in place: slots are allocated ahead, and a call writes those of its tokens.

`TensorScatter` (ONNX 24) gives a past with some slots written. Where both are bound to the same memory, the
engine writes these slots and copies nothing. `Attention` (ONNX 24) then reads the whole memory and gives what
stands behind a row's length a weight of nothing; so a slot that was never written has to hold finite numbers.

Prefill and step are then one graph. A prefill reads many tokens behind no slot, a step one token behind
many, and in both a token sees every slot of its row that is in use after the call: a prefix is read in both
directions, and behind a single token nothing stands yet. Only Gemma 2's window asks for a mask.

Legend: B batch, N image tokens of a row, T prompt tokens of the longest row, M tokens of a call (N + T), A
query heads, K key-value heads, F folded heads, H head width, C cache slots, D width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from paligemma_onnx.model.attention import Attention
from paligemma_onnx.model.cache import KeyValue
from paligemma_onnx.model.config import TextConfig
from paligemma_onnx.model.gemma import DecoderLayer
from paligemma_onnx.model.paligemma import PaliGemma
from paligemma_onnx.model.rotary import Rotation, compute_rotation

from .onnx_ops import operator

# In a step, query heads that read the same keys are put below each other, as if they were tokens of one head:
# the engine reads keys once for all of these. It spreads what is left over threads: of PaliGemma 1, whose
# eight heads share one key head, two a row. A prefill reads keys for many tokens anyway, and folds none.
MOST_FOLDED = 4


class InPlaceDecoder(nn.Module):
    """Image features and tokens behind what the cache holds; to be traced only."""

    def __init__(self, model: PaliGemma) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: Tensor,
        image_features: Tensor,
        text_lengths: Tensor,
        past_lengths: Tensor,
        *past: Tensor,
    ) -> tuple[Tensor, ...]:
        """Add tokens to each row: N + T to an empty one, or one (N = 0) to one that holds some.

        Args:
            input_ids: int64[B, T], padded on the right.
            image_features: float[B, N, D].
            text_lengths: int64[B], real tokens of each row of input_ids.
            past_lengths: int64[B], slots of each row that are in use.
            past: key and value of each layer in turn, float[B, K, C, H].

        Returns:
            logits float[B, V] behind each row's last token, and the cache.
        """
        decoder, config = self.model.language_model, self.model.config.text_config
        text = decoder.embed(input_ids, image_features.dtype)
        x = torch.cat([image_features, text], dim=1)
        rows, tokens = x.shape[:2]
        new = image_features.shape[1] + text_lengths
        folded = torch.where(torch.full((), tokens) == 1, _most_folded(config), 1)
        call = InPlaceCall(past_lengths, past_lengths + new, folded)
        positions = past_lengths[:, None] + torch.arange(tokens, device=x.device)
        sliding_mask = None
        if config.sliding_window is not None:
            sliding_mask = _window(past_lengths, tokens * folded, past[0].shape[2], config.sliding_window)
        rotation = compute_rotation(positions, decoder.frequencies)
        cache: list[Tensor] = []
        for index, module in enumerate(decoder.layers):
            layer, layer_past = cast("DecoderLayer", module), KeyValue(*past[2 * index : 2 * index + 2])
            mask = None if config.window(index) is None else sliding_mask
            attended, present = attend_in_place(
                layer.self_attn, layer.input_layernorm(x), rotation, mask, layer_past, call
            )
            x = layer.add_to_stream(x, attended)
            cache += present
        last = torch.arange(rows, device=x.device) * tokens + new - 1
        logits = decoder.logits(x.flatten(0, 1).index_select(0, last))
        return logits, *cache


@dataclass(frozen=True)
class InPlaceCall:
    """Tensors that the attention of every layer reads in one call."""

    lengths: Tensor  # int64[B], slots of each row that are in use before the call
    lengths_after: Tensor  # int64[B], and after it
    folded: Tensor  # int64[], F: heads put below each other


def attend_in_place(
    attention: Attention,
    x: Tensor,
    rotation: Rotation,
    mask: Tensor | None,
    past: KeyValue,
    call: InPlaceCall,
) -> tuple[Tensor, KeyValue]:
    """Compute Attention.forward with three standard operators; past and present have the same C slots.

    Args:
        attention: its weights.
        x: float[B, M, D].
        rotation: cosine and sine of the tokens' angles.
        mask: bool[B, 1, M*F, C] of a sliding layer; a global layer needs none.
        past: the layer's cache, float[B, K, C, H] each.
        call: lengths and folding.

    Returns:
        float[B, M, D], and the layer's cache.
    """
    config = attention.config
    query, key, value = attention.q_proj(x), attention.k_proj(x), attention.v_proj(x)
    kept = scatter_kv(past, _rotated(key, rotation, config), value, call.lengths, config)
    query = fold_query_groups(_rotated(query, rotation, config), call.folded, config)
    mixed = attend(query, kept, mask, call.lengths_after, config)
    return attention.o_proj(unfold_query_groups(mixed, call.folded, config)), kept


def scatter_kv(past: KeyValue, key: Tensor, value: Tensor, lengths: Tensor, config: TextConfig) -> KeyValue:
    """A cache with a call's tokens behind each row's slots.

    Args:
        past: the cache, float[B, K, C, H] each.
        key: float[B, M, K*H], rotated.
        value: float[B, M, K*H].
        lengths: int64[B], slots of each row that are in use before the call.
        config: number and width of heads.
    """
    new = split_heads(key, config), split_heads(value, config)
    return KeyValue(*(_scattered(into, added, lengths) for into, added in zip(past, new, strict=True)))


def attend(
    query: Tensor, kept: KeyValue, mask: Tensor | None, lengths_after: Tensor, config: TextConfig
) -> Tensor:
    """What queries find in a cache whose rows use so many slots: float[B, A, M, H] -> the same."""
    attributes = {
        "scale": config.query_pre_attn_scalar**-0.5,
        "softcap": config.attn_logit_softcapping or 0.0,  # 0: no cap
        "is_causal": 0,
    }
    inputs = (query, *kept, mask, None, None, lengths_after)
    (mixed,) = operator("Attention", inputs, attributes, like=(query,))
    return mixed


def _most_folded(config: TextConfig) -> int:
    """How many query heads of a key head a step puts below each other."""
    return math.gcd(config.query_groups, MOST_FOLDED)


def fold_query_groups(query: Tensor, folded: Tensor, config: TextConfig) -> Tensor:
    """[B, M, A*H] -> [B, A/F, M*F, H]."""
    rows, tokens = query.shape[:2]
    most = _most_folded(config)
    apart = query.unflatten(2, (-1, most, config.head_dim))
    apart = _reshaped(query, (0, 0, -1, folded, config.head_dim), like=apart).transpose(1, 2)
    below = query.new_empty(rows, apart.shape[1], tokens * most, config.head_dim)
    return _reshaped(apart, (0, 0, -1, config.head_dim), like=below)


def unfold_query_groups(mixed: Tensor, folded: Tensor, config: TextConfig) -> Tensor:
    """[B, A/F, M*F, H] -> [B, M, A*H]."""
    apart = mixed.unflatten(2, (-1, _most_folded(config)))
    return _reshaped(mixed, (0, 0, -1, folded, config.head_dim), like=apart).transpose(1, 2).flatten(2)


def _reshaped(x: Tensor, shape: Sequence[int | Tensor], like: Tensor) -> Tensor:
    """Reshape to sizes that are known when the graph runs: 0 keeps one, -1 is what remains.

    The tracer has to know sizes at once: it is shown those of a step, by `like`, and what it notes of them
    is dropped.
    """
    (reshaped,) = operator("Reshape", (x, _sizes(shape)), {}, like=(like,))
    return reshaped


def _sizes(shape: Sequence[int | Tensor]) -> Tensor:
    """int64[rank]; filled one by one, for a tensor made of literals would be a weight of the graph."""
    filled = [torch.full((1,), size) if isinstance(size, int) else size[None] for size in shape]
    return torch.cat(filled)


def split_heads(x: Tensor, config: TextConfig) -> Tensor:
    """[B, M, K*H] -> [B, K, M, H]."""
    return torch.unflatten(x, 2, (-1, config.head_dim)).transpose(1, 2)


def _scattered(past: Tensor, new: Tensor, lengths: Tensor) -> Tensor:
    """Write a call's tokens behind each row's slots: float[B, K, C, H]."""
    (present,) = operator("TensorScatter", (past, new, lengths), {"axis": 2}, like=(past,))
    return present


def _window(past_lengths: Tensor, tokens: Tensor, slots: int, window: int) -> Tensor:
    """The slots that a generated token sees, for each of M*F folded tokens alike: bool[B, 1, M*F, C].

    As in step_mask; behind no slot, that is in a prefill, it hides nothing.
    """
    slot = torch.arange(slots, device=past_lengths.device)
    seen = (slot > past_lengths[:, None] - window)[:, None, None, :]
    (expanded,) = operator("Expand", (seen, _sizes((1, 1, tokens, 1))), {}, like=(seen,))
    return expanded


def _rotated(x: Tensor, rotation: Rotation, config: TextConfig) -> Tensor:
    """`rotate` as one operator: float[B, M, A*H] -> the same."""
    attributes = {"num_heads": x.shape[2] // config.head_dim}
    angles = rotation.cos.squeeze(1), rotation.sin.squeeze(1)
    (rotated,) = operator("RotaryEmbedding", (x, *angles), attributes, like=(x,))
    return rotated
