"""Decoder that updates its KV cache in place: all slots exist from the start, and a call writes some slots.

The operator `TensorScatter` (ONNX 24) returns the cache with new values in the slots of new tokens. If input
and output of the operator are bound to the same memory, onnxruntime writes these slots and copies nothing.
The operator `Attention` (ONNX 24) then reads all C slots and masks the slots beyond the length of a row.
Masked slots must still hold finite numbers, because 0 * NaN is NaN.

One graph is both prefill and decode. Image features tell the two apart. A call with image features is a
prefill: the cache is empty, and the tokens of a row see each other in both directions. A call without image
features is a decode step of one or more tokens, which is causal. The layout of the cache is [B, C, K * H], so
that keys and values go from the projection to the cache, and from the cache to `Attention`, without being
transposed.

Shapes: docs/notation.md.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paligemma_onnx.model.attention import softcap
from paligemma_onnx.model.cache import KeyValue
from paligemma_onnx.model.config import TextConfig
from paligemma_onnx.model.paligemma import PaliGemma
from paligemma_onnx.model.rotary import Rotation, compute_rotation

from .fused_layers import add_and_normalize, run_layers
from .onnx_ops import apply_operator, scatter_tokens
from .prefix_or_step import PREFIX_OR_STEP, count_folded_heads


def decode_in_place(
    model: PaliGemma,
    input_ids: Tensor,
    image_features: Tensor,
    text_lengths: Tensor,
    past_lengths: Tensor,
    *past: Tensor,
) -> tuple[Tensor, ...]:
    """Append N + T tokens to each empty row, or T tokens (N = 0) to each row that is not empty.

    Args:
        model: the traced model; its decoder is packed (packed_weights.py).
        input_ids: int64[B, T], padded on the right.
        image_features: float[B, N, D].
        text_lengths: int64[B], number of tokens of each row of input_ids without padding. In a decode step
            it may be T: no token sees the padding behind it, and the next call overwrites the padding.
        past_lengths: int64[B], slots of each row in use before the call.
        past: key and value of each layer in turn, float[B, C, K * H].

    Returns:
        Logits and the cache. A prefill returns the logits float[B, V] for the token that follows the last
        token of each row. A decode step returns the logits float[B * T, V] for the token that follows each of
        its tokens.
    """
    decoder = model.language_model
    text = decoder.embed(input_ids, image_features.dtype)
    x = torch.cat([image_features, text], dim=1)
    rows, tokens = x.shape[:2]
    added = image_features.shape[1] + text_lengths
    is_prefill = torch.full((), image_features.shape[1]) > 0
    index = torch.arange(tokens, device=x.device)
    positions = past_lengths[:, None] + index
    # Zero for a prefill, so that the mask of a prefill, which is not read, has no elements.
    step_tokens = torch.where(is_prefill, 0, tokens)
    attention = InPlaceAttention(
        decoder.config,
        compute_rotation(positions, decoder.frequencies),
        positions,
        step_tokens,
        is_prefill,
        text_lengths.amin(dim=0) == input_ids.shape[1],
        past_lengths,
        past_lengths + added,
        past[0].shape[1],
    )
    x, update, cache = run_layers(decoder, x, past, attention)
    first_of_row = torch.arange(rows, device=x.device)[:, None] * tokens
    last = _slice_tokens(first_of_row + (added - 1)[:, None], torch.where(is_prefill, 1, 0))
    scored = torch.cat([_slice_tokens(first_of_row + index, step_tokens), last], dim=1)
    (scored,) = apply_operator("Reshape", (scored, torch.full((1,), -1)), {}, like=(scored.flatten(),))
    x, update = (tensor.flatten(0, 1).index_select(0, scored) for tensor in (x, update))
    normed, _ = add_and_normalize(x, update, decoder.norm)
    return softcap(decoder.head.logits(normed), decoder.config.final_logit_softcapping), *cache


class InPlaceAttention:
    """Attention of a layer to all slots of its cache, without the input and output projections."""

    def __init__(
        self,
        config: TextConfig,
        rotation: Rotation,
        positions: Tensor,
        step_tokens: Tensor,
        is_prefill: Tensor,
        is_unpadded: Tensor,
        past_lengths: Tensor,
        lengths_after: Tensor,
        slots: int,
    ) -> None:
        """Compute what all layers share.

        Args:
            config: configuration of the decoder.
            rotation: angles of the tokens, float32[B, 1, L, H / 2] each.
            positions: int64[B, L], positions of the tokens.
            step_tokens: int64[], L in a decode step, 0 in a prefill.
            is_prefill: bool[], whether all tokens of a row see each other.
            is_unpadded: bool[], whether no row of the call has padding.
            past_lengths: int64[B], slots of each row in use before the call.
            lengths_after: int64[B], slots of each row in use after the call.
            slots: number of slots of the cache, C.
        """
        self.config, self.is_prefill, self.is_unpadded = config, is_prefill, is_unpadded
        self.angles = rotation.cos.squeeze(1), rotation.sin.squeeze(1)
        self.past_lengths, self.lengths_after = past_lengths, lengths_after
        slot = torch.arange(slots, device=past_lengths.device)
        folded = count_folded_heads(config)
        position_of_head = positions[:, :, None].expand(-1, -1, folded).flatten(1)  # [B, L * F]
        position = _slice_tokens(position_of_head, step_tokens * folded)[:, None, :, None]
        self.mask = slot <= position  # [B, 1, T * F, C]
        self.sliding_mask = None
        if config.sliding_window is not None:
            self.sliding_mask = self.mask & (slot > position - config.sliding_window)

    def __call__(self, packed: Tensor, past: KeyValue, window: int | None) -> tuple[Tensor, KeyValue]:
        """Attend: packed projections float[B, L, (A + 2K) * H] -> float[B, L, A * H], cache of the layer."""
        config = self.config
        query_heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        widths = [heads * config.head_dim for heads in (query_heads, kv_heads, kv_heads)]
        query, key, value = packed.split(widths, dim=2)
        new = self._rotate(key), value
        present = scatter_tokens(past, new, self.past_lengths, axis=1)
        attributes = {
            "query_heads": query_heads,
            "folded": count_folded_heads(config),
            "kv_heads": kv_heads,
            "head_dim": config.head_dim,
            "scale": config.query_pre_attn_scalar**-0.5,
            "softcap": config.attn_logit_softcapping or 0.0,  # 0: no cap
        }
        mask = self.mask if window is None else self.sliding_mask
        conditions = self.is_prefill, self.is_unpadded
        inputs = (*conditions, self._rotate(query), *new, *present, mask, self.lengths_after)
        return apply_operator(PREFIX_OR_STEP, inputs, attributes, like=(query,))[0], present

    def _rotate(self, x: Tensor) -> Tensor:
        """Apply rotary embedding as one operator: float32[B, L, heads * H] -> the same shape."""
        attributes = {"num_heads": x.shape[2] // self.config.head_dim}
        return apply_operator("RotaryEmbedding", (x, *self.angles), attributes, like=(x,))[0]


def _slice_tokens(x: Tensor, count: Tensor) -> Tensor:
    """Return the first `count` entries of axis 1, where `count` is known only when the graph runs.

    The tracer needs a fixed shape and takes that of x; trace.py removes the types that follow from it.
    """
    start, axes = torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.int64)
    return apply_operator("Slice", (x, start, count[None], axes), {}, like=(x,))[0]
