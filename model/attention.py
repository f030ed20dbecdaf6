"""Grouped-query attention over the cache (arXiv 2305.13245): four projections around a core.

What happens between the projections is an argument, so that the same layers can be traced with a core of an
engine's own operators.

Legend: B batch, T tokens of this call, S cache slots, D width, A query heads, K key-value heads, G query
heads for each of them, H head width.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from .cache import KeyValue, append
from .config import TextConfig
from .linear import Linear
from .rotary import Rotation, rotate


class AttentionCore(Protocol):
    """What attention does between its projections."""

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        by: Rotation,
        mask: Tensor,
        past: KeyValue | None,
        lengths: Tensor,
        config: TextConfig,
        window: int | None,
    ) -> tuple[Tensor, KeyValue]:
        """Attend from this call's tokens to the cache and to themselves.

        Args:
            query: float[B, T, A*H], not rotated yet.
            key: float[B, T, K*H], not rotated yet.
            value: float[B, T, K*H].
            by: the tokens' rotation.
            mask: bool[B, 1, 1, S], the slots they may see.
            past: this layer's cache, or None when the call starts it.
            lengths: int64[B], slots in use before the call; read only with a cache.
            config: number and width of heads, scale and cap of scores.
            window: what the mask says in one number: tokens this layer sees back, None for all.

        Returns:
            float[B, T, A*H], and the layer's cache.
        """


def softcap(x: Tensor, cap: float | None) -> Tensor:
    """Squeeze x smoothly into (-cap, cap) (arXiv 2408.00118, section 2)."""
    return x if cap is None else cap * torch.tanh(x / cap)


def eager_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    by: Rotation,
    mask: Tensor,
    past: KeyValue | None,
    lengths: Tensor,
    config: TextConfig,
    window: int | None,  # noqa: ARG001  the mask has it
) -> tuple[Tensor, KeyValue]:
    """The AttentionCore spelt out; its cache grows by this call's tokens, to S slots."""
    query = rotate(_heads(query, config), by)
    new = KeyValue(rotate(_heads(key, config), by), _heads(value, config))
    keys, values = seen = new if past is None else append(past, new, lengths)

    # Queries that share a key head stand below each other, so the cache is never repeated for them.
    groups, tokens = config.query_groups, query.shape[2]
    query = query.unflatten(1, (-1, groups)).flatten(2, 3)  # [B, K, G*T, H]
    scores = (query @ keys.transpose(2, 3)) * config.query_pre_attn_scalar**-0.5
    scores = softcap(scores, config.attn_logit_softcapping)
    # The cap comes before the mask: a capped minus infinity would be visible again.
    scores = torch.where(mask, scores, torch.finfo(scores.dtype).min)
    mixed = scores.float().softmax(dim=-1).to(query.dtype) @ values
    heads = mixed.unflatten(2, (groups, tokens)).flatten(1, 2)  # [B, A, T, H]
    return heads.transpose(1, 2).flatten(2), seen


def _heads(x: Tensor, config: TextConfig) -> Tensor:
    """[B, T, A*H] -> [B, A, T, H]."""
    return torch.unflatten(x, 2, (-1, config.head_dim)).transpose(1, 2)


class Attention(nn.Module):
    """The attention of one layer."""

    def __init__(self, config: TextConfig, window: int | None) -> None:
        super().__init__()
        self.config, self.window = config, window
        query_width = config.num_attention_heads * config.head_dim
        key_value_width = config.num_key_value_heads * config.head_dim
        self.q_proj = Linear(config.hidden_size, query_width, bias=False)
        self.k_proj = Linear(config.hidden_size, key_value_width, bias=False)
        self.v_proj = Linear(config.hidden_size, key_value_width, bias=False)
        self.o_proj = Linear(query_width, config.hidden_size, bias=False)

    def forward(
        self,
        x: Tensor,
        by: Rotation,
        mask: Tensor,
        past: KeyValue | None,
        lengths: Tensor,
        core: AttentionCore = eager_attention,
    ) -> tuple[Tensor, KeyValue]:
        """float[B, T, D] -> float[B, T, D] and the layer's cache; see AttentionCore for the rest."""
        projected = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        mixed, seen = core(*projected, by, mask, past, lengths, self.config, self.window)
        return self.o_proj(mixed), seen
