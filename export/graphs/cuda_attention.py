"""Attention of a decoder layer in the CUDA graphs, without the input and output projections.

One packed matrix product computes query, key and value. A decode step then uses the single operator
`GroupQueryAttention`, which applies the rotary embedding, writes into the cache and attends. The CUDA kernels
of this operator are causal and do not support padding within a prompt. A prefill therefore uses the standard
operators `TensorScatter` and `Attention`.

Shapes: docs/notation.md.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paligemma_onnx.model.cache import KeyValue
from paligemma_onnx.model.config import TextConfig
from paligemma_onnx.model.gemma import Gemma

from .cuda_weights import COS, SIN
from .onnx_ops import apply_operator, scatter_tokens


class CudaPrefillAttention:
    """Attention of many tokens. A token sees all slots that its row uses after the call."""

    def __init__(
        self, decoder: Gemma, positions: Tensor, past_lengths: Tensor, lengths_after: Tensor
    ) -> None:
        self.decoder, self.positions = decoder, positions
        self.past_lengths, self.lengths_after = past_lengths, lengths_after

    def __call__(
        self,
        packed: Tensor,
        past: KeyValue,
        window: int | None,  # noqa: ARG002  unused: a prefix is bidirectional over its whole length
    ) -> tuple[Tensor, KeyValue]:
        """Attend: packed projections float[B, L, (A + 2K) * H] -> float[B, L, A * H], cache of the layer."""
        config = self.decoder.config
        query_heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        widths = [heads * config.head_dim for heads in (query_heads, kv_heads, kv_heads)]
        query, key, value = packed.split(widths, dim=2)
        query, key = self._rotate(query, config), self._rotate(key, config)
        new = _split_heads(key, config), _split_heads(value, config)
        present = scatter_tokens(past, new, self.past_lengths, axis=2)
        mixed = _attend(_split_heads(query, config), present, None, self.lengths_after, config)
        return mixed.transpose(1, 2).flatten(2), present

    def _rotate(self, x: Tensor, config: TextConfig) -> Tensor:
        attributes = {"num_heads": x.shape[2] // config.head_dim}
        inputs = (x, *_rotary_tables(self.decoder), self.positions)
        return apply_operator("RotaryEmbedding", inputs, attributes, like=(x,))[0]


class CudaDecodeAttention:
    """Attention of one token per row. One operator rotates, writes into the cache and attends."""

    def __init__(self, decoder: Gemma, past_lengths: Tensor, past: Tensor) -> None:
        self.decoder = decoder
        # The operator expects the number N - 1, where N slots are in use after the call. A call adds one
        # slot, so N - 1 slots are in use before the call.
        self.past_lengths = past_lengths.to(torch.int32)
        # From this number the operator computes the division of its work among thread blocks. The number is
        # the capacity and not the number of slots in use, because a captured CUDA graph is always replayed
        # with the number of its capture.
        self.capacity = torch.full((), past.shape[2], dtype=torch.int32)

    def __call__(self, packed: Tensor, past: KeyValue, window: int | None) -> tuple[Tensor, KeyValue]:
        """Attend: packed projections float[B, 1, (A + 2K) * H] -> float[B, 1, A * H], cache of the layer."""
        config = self.decoder.config
        attributes = {
            "num_heads": config.num_attention_heads,
            "kv_num_heads": config.num_key_value_heads,
            "do_rotary": 1,
            "scale": config.query_pre_attn_scalar**-0.5,
            "softcap": config.attn_logit_softcapping or 0.0,  # 0: no cap
            "local_window_size": -1 if window is None else window,  # -1: no window
        }
        lengths_and_angles = (self.past_lengths, self.capacity, *_rotary_tables(self.decoder))
        inputs: tuple[Tensor | None, ...] = (packed, None, None, *past, *lengths_and_angles)
        mixed = packed.new_empty(*packed.shape[:2], config.num_attention_heads * config.head_dim)
        mixed, *present = apply_operator(
            "com.microsoft::GroupQueryAttention", inputs, attributes, like=(mixed, *past)
        )
        return mixed, KeyValue(*present)


def _attend(
    query: Tensor, cache: KeyValue, mask: Tensor | None, lengths_after: Tensor, config: TextConfig
) -> Tensor:
    """Return the result of attention to the cache slots that are in use.

    Args:
        query: float[B, A, L, H].
        cache: float[B, K, C, H] each.
        mask: bool[B, 1, L, C], true for the slots that a token may see. None: all slots in use.
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


def _split_heads(x: Tensor, config: TextConfig) -> Tensor:
    """Return x with an axis for the heads: [B, L, heads * H] -> [B, heads, L, H]."""
    return torch.unflatten(x, 2, (-1, config.head_dim)).transpose(1, 2)


def _rotary_tables(decoder: Gemma) -> tuple[Tensor, Tensor]:
    """Return the cosines and the sines of the angles of every position, [X, H / 2] each."""
    return decoder.get_buffer(COS), decoder.get_buffer(SIN)
