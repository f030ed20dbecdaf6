"""The Gemma and Gemma 2 decoders (arXiv 2403.08295, arXiv 2408.00118).

Shapes: docs/notation.md.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import Attention, softcap
from .cache import Cache, KeyValue
from .config import TextConfig
from .linear import Linear, TiedEmbedding
from .rotary import Rotation, RotationAngles, inverse_frequencies


class RMSNorm(nn.Module):
    """Normalisation by the root mean square, in float32 (arXiv 1910.07467, equation 4).

    The stored weight is the gain minus 1: x / rms(x) * (1 + weight).
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis: float[..., width] -> the same shape."""
        x32 = x.float()
        normed = x32 * torch.rsqrt(x32.square().mean(dim=-1, keepdim=True) + self.eps)
        return (normed * (1.0 + self.weight.float())).to(x.dtype)


class MLP(nn.Module):
    """Gated MLP (arXiv 2002.05202, GEGLU).

    The tanh-form GELU of one projection is multiplied by a second projection.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the MLP to each token: float[B, L, D] -> the same shape."""
        out: Tensor = self.down_proj(F.gelu(self.gate_proj(x), approximate="tanh") * self.up_proj(x))
        return out


class DecoderLayer(nn.Module):
    """Attention, then an MLP. Their outputs are added to the residual stream.

    Gemma normalises the inputs of attention and MLP. Gemma 2 normalises their outputs as well. The name
    `post_attention_layernorm` therefore has two meanings: in Gemma this norm normalises the input of the MLP,
    in Gemma 2 the output of attention. The parameters have their names in the checkpoint.
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
        self, x: Tensor, rotation: Rotation, mask: Tensor, past: KeyValue | None, lengths: Tensor
    ) -> tuple[Tensor, KeyValue]:
        """Run the layer; the arguments and results have the shapes documented in Attention.forward."""
        attended, cache = self.self_attn(self.input_layernorm(x), rotation, mask, past, lengths)
        return self.add_to_stream(x, attended), cache

    def add_to_stream(self, x: Tensor, attended: Tensor) -> Tensor:
        """Add the output of attention to x, then add the output of the MLP; all are float[B, L, D]."""
        if self.has_post_norms:
            x = x + self.post_attention_layernorm(attended)
            x = x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))
        else:
            x = x + attended
            x = x + self.mlp(self.post_attention_layernorm(x))
        return x


class Gemma(nn.Module):
    """The decoder.

    The embedding and the output head are the same matrix, unless adapters change the two in different ways.
    """

    frequencies: Tensor

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = TiedEmbedding(config.vocab_size, config.hidden_size)
        if not config.tied_head:
            self.lm_head = TiedEmbedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        # The frequencies are a constant, not a weight: checkpoints do not store them.
        frequencies = inverse_frequencies(config.head_dim, config.rope_theta)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.rotation = RotationAngles()

    @property
    def head(self) -> TiedEmbedding:
        """The output head, which is the embedding or a separate matrix of the same shape."""
        return self.embed_tokens if self.config.tied_head else self.lm_head

    def embed(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """Embed ids and scale the vectors by sqrt(D): int64[B, T] -> dtype[B, T, D].

        The scale (arXiv 1706.03762, section 3.4) is rounded to `dtype`, as in transformers. `dtype` is the
        dtype of the activations.
        """
        scale = torch.tensor(self.config.hidden_size**0.5, dtype=dtype).item()
        vectors: Tensor = self.embed_tokens(ids, dtype) * scale
        return vectors

    def forward(
        self, x: Tensor, positions: Tensor, masks: tuple[Tensor, ...], past: Cache | None, lengths: Tensor
    ) -> tuple[Tensor, Cache]:
        """Return the outputs of the last layer and the cache.

        Args:
            x: float[B, L, D], image features and embedded tokens.
            positions: int64[B, L], or int64[1, L] if all rows have the same positions.
            masks: for each layer the slots that the tokens may see; see `Attention.attend`.
            past: the cache of P slots, or None if the call creates the cache (P = 0).
            lengths: int64[B], slots of each row in use before the call; read only if `past` is given.

        Returns:
            float[B, L, D] before the last norm, and the cache of P + L slots.
        """
        rotation = self.rotation(positions, self.frequencies)
        cache: list[KeyValue] = []
        for index, (layer, mask) in enumerate(zip(self.layers, masks, strict=True)):
            x, layer_cache = layer(x, rotation, mask, None if past is None else past[index], lengths)
            cache.append(layer_cache)
        return x, tuple(cache)

    def logits(self, x: Tensor) -> Tensor:
        """Return the score of every token of the vocabulary: float[B, D] -> float[B, V]."""
        return softcap(self.head.logits(self.norm(x)), self.config.final_logit_softcapping)
