"""Grouped-query attention over the key-value cache (arXiv 2305.13245).

Shapes: docs/notation.md. A call appends L slots to a cache of P slots.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .cache import KeyValue, append
from .config import TextConfig
from .linear import Linear
from .rotary import Rotation, rotate


def softcap(x: Tensor, cap: float | None) -> Tensor:
    """Return x squeezed smoothly into (-cap, cap), or x if cap is None (arXiv 2408.00118, section 2)."""
    return x if cap is None else cap * torch.tanh(x / cap)


class Attention(nn.Module):
    """The attention of one layer: three projections, scaled dot-product attention, one projection."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        query_width = config.num_attention_heads * config.head_dim
        key_value_width = config.num_key_value_heads * config.head_dim
        self.q_proj = Linear(config.hidden_size, query_width, bias=False)
        self.k_proj = Linear(config.hidden_size, key_value_width, bias=False)
        self.v_proj = Linear(config.hidden_size, key_value_width, bias=False)
        self.o_proj = Linear(query_width, config.hidden_size, bias=False)

    def forward(
        self, x: Tensor, rotation: Rotation, mask: Tensor, past: KeyValue | None, lengths: Tensor
    ) -> tuple[Tensor, KeyValue]:
        """Let the tokens of this call attend to the cached tokens and to the tokens of this call.

        Args:
            x: float[B, L, D].
            rotation: cosine and sine of the tokens' angles.
            mask: the slots that the tokens may see; see `attend`.
            past: this layer's cache of P slots, or None if the call creates the cache (P = 0).
            lengths: int64[B], slots of each row in use before the call; read only if `past` is given.

        Returns:
            float[B, L, D], and the layer's cache of P + L slots.
        """
        query, new = self.project(x, rotation)
        cache = new if past is None else append(past, new, lengths)
        return self.attend(query, cache, mask), cache

    def project(self, x: Tensor, rotation: Rotation) -> tuple[Tensor, KeyValue]:
        """Return the queries, float[B, A, L, H], and the keys and values of the tokens of this call.

        Queries and keys are rotated. Keys and values are float[B, K, L, H].
        """
        query, key, value = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        query = rotate(self._split_heads(query), rotation)
        return query, KeyValue(rotate(self._split_heads(key), rotation), self._split_heads(value))

    def attend(self, query: Tensor, cache: KeyValue, mask: Tensor) -> Tensor:
        """Return the output of the layer's attention: float[B, A, L, H] -> float[B, L, D].

        Args:
            query: the rotated queries.
            cache: keys and values of the cached tokens and of the tokens of this call.
            mask: true for the slots that the tokens may see: bool[B, 1, 1, P + L], the same slots for all
                tokens, or bool[B, 1, G * L, P + L], the slots of each token, G times one after the other.
        """
        config, (keys, values) = self.config, cache
        # The G query heads of a key-value head are concatenated along the token axis, so that keys and
        # values are read once and never repeated per query head.
        groups, tokens = config.query_groups, query.shape[2]
        query = query.unflatten(1, (-1, groups)).flatten(2, 3)  # [B, K, G*L, H]
        scores = (query @ keys.transpose(2, 3)) * config.query_pre_attn_scalar**-0.5
        scores = softcap(scores, config.attn_logit_softcapping)
        # The cap comes before the mask: after the mask, the cap would raise a masked score to -cap, and the
        # hidden slot would be visible again.
        scores = torch.where(mask, scores, torch.finfo(scores.dtype).min)  # [B, K, G*L, P+L]
        mixed = scores.float().softmax(dim=-1).to(query.dtype) @ values
        heads = mixed.unflatten(2, (groups, tokens)).flatten(1, 2)  # [B, A, L, H]
        attended: Tensor = self.o_proj(heads.transpose(1, 2).flatten(2))
        return attended

    def _split_heads(self, x: Tensor) -> Tensor:
        """Return x with an axis for the heads: [B, L, heads * H] -> [B, heads, L, H]."""
        return torch.unflatten(x, 2, (-1, self.config.head_dim)).transpose(1, 2)
