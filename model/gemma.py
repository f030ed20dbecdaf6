"""The Gemma and Gemma 2 decoders (arXiv 2403.08295, arXiv 2408.00118).

Legend: B batch, T tokens of this call, S cache slots, D width, K key-value heads, G query heads for each of
them, H head width, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cache import Cache, KeyValue, append
from .config import TextConfig
from .linear import Linear, TiedEmbedding
from .rotary import Rotation, inverse_frequencies, rotate, rotation


class RMSNorm(nn.Module):
    """x / rms(x) * (1 + weight), in float32 (arXiv 1910.07467, equation 4; Gemma stores the gain minus 1)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """float[..., D] -> float[..., D]."""
        wide = x.float()
        normed = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + self.eps)
        return (normed * (1.0 + self.weight.float())).to(x.dtype)


def softcap(x: Tensor, cap: float | None) -> Tensor:
    """Squeeze x smoothly into (-cap, cap) (arXiv 2408.00118, section 2)."""
    return x if cap is None else cap * torch.tanh(x / cap)


class Attention(nn.Module):
    """Grouped-query attention over the cache (arXiv 2305.13245)."""

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
        self, x: Tensor, by: Rotation, mask: Tensor, past: KeyValue | None, lengths: Tensor
    ) -> tuple[Tensor, KeyValue]:
        """Attend from this call's tokens to the cache and to themselves.

        Args:
            x: float[B, T, D].
            by: the tokens' rotation.
            mask: bool[B, 1, 1, S], the slots they may see.
            past: this layer's cache, or None when the call starts it.
            lengths: int64[B], slots in use before the call; read only with a cache.

        Returns:
            float[B, T, D] and the layer's cache of S slots.
        """
        query = rotate(self._heads(self.q_proj(x)), by)
        new = KeyValue(rotate(self._heads(self.k_proj(x)), by), self._heads(self.v_proj(x)))
        key, value = seen = new if past is None else append(past, new, lengths)

        # Queries that share a key head stand below each other, so the cache is never repeated for them.
        groups, tokens = self.config.query_groups, x.shape[1]
        query = query.unflatten(1, (-1, groups)).flatten(2, 3)  # [B, K, G*T, H]
        scores = (query @ key.transpose(2, 3)) * self.config.query_pre_attn_scalar**-0.5
        scores = softcap(scores, self.config.attn_logit_softcapping)
        # The cap comes before the mask: a capped minus infinity would be visible again.
        scores = torch.where(mask, scores, torch.finfo(scores.dtype).min)
        mixed = scores.float().softmax(dim=-1).to(x.dtype) @ value
        heads = mixed.unflatten(2, (groups, tokens)).flatten(1, 2)  # [B, K*G, T, H]
        return self.o_proj(heads.transpose(1, 2).flatten(2)), seen

    def _heads(self, x: Tensor) -> Tensor:
        """[B, T, A*H] -> [B, A, T, H]."""
        return torch.unflatten(x, 2, (-1, self.config.head_dim)).transpose(1, 2)


class MLP(nn.Module):
    """Gated MLP: GELU, in its tanh form, of one projection scales another (arXiv 2002.05202, GEGLU)."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """float[B, T, D] -> float[B, T, D]."""
        out: Tensor = self.down_proj(F.gelu(self.gate_proj(x), approximate="tanh") * self.up_proj(x))
        return out


class DecoderLayer(nn.Module):
    """Attention and MLP around the residual stream.

    In Gemma `post_attention_layernorm` normalises the MLP's input; in Gemma 2 it normalises what attention
    adds to the stream, and the MLP has a pair of norms of its own. The names are the checkpoint's.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.has_post_norms = config.has_post_norms
        if config.has_post_norms:
            self.pre_feedforward_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
            self.post_feedforward_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self, x: Tensor, by: Rotation, mask: Tensor, past: KeyValue | None, lengths: Tensor
    ) -> tuple[Tensor, KeyValue]:
        """As Attention.forward."""
        attended, seen = self.self_attn(self.input_layernorm(x), by, mask, past, lengths)
        if self.has_post_norms:
            x = x + self.post_attention_layernorm(attended)
            x = x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))
        else:
            x = x + attended
            x = x + self.mlp(self.post_attention_layernorm(x))
        return x, seen


class Gemma(nn.Module):
    """The decoder: vectors in, vectors and cache out; embedding and head are the same table."""

    frequencies: Tensor

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = TiedEmbedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        # A constant of the model, not a weight: checkpoints do not store it.
        frequencies = inverse_frequencies(config.head_dim, config.rope_theta)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def embed(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """Ids to vectors of unit scale: int64[B, T] -> dtype[B, T, D].

        Gemma multiplies by sqrt(D) rounded to the activations' dtype (arXiv 1706.03762, section 3.4).
        """
        scale = torch.tensor(self.config.hidden_size**0.5, dtype=dtype).item()
        vectors: Tensor = self.embed_tokens(ids, dtype) * scale
        return vectors

    def forward(
        self, x: Tensor, positions: Tensor, masks: tuple[Tensor, ...], past: Cache | None, lengths: Tensor
    ) -> tuple[Tensor, Cache]:
        """Run every layer.

        Args:
            x: float[B, T, D], image features and embedded tokens.
            positions: int64[B, T] (or [1, T] when all rows agree).
            masks: one bool[B, 1, 1, S] a layer.
            past: the cache, or None when the call starts it.
            lengths: int64[B], slots in use before the call.

        Returns:
            float[B, T, D] before the last norm, and the cache of S slots.
        """
        by = rotation(positions, self.frequencies)
        cache: list[KeyValue] = []
        for index, (layer, mask) in enumerate(zip(self.layers, masks, strict=True)):
            x, seen = layer(x, by, mask, None if past is None else past[index], lengths)
            cache.append(seen)
        return x, tuple(cache)

    def logits(self, x: Tensor) -> Tensor:
        """Score every word of the vocabulary: float[B, D] -> float[B, V]."""
        return softcap(self.embed_tokens.logits(self.norm(x)), self.config.final_logit_softcapping)
