"""The graphs for a GPU: matrices in half precision, norms and the residual stream in float32, few kernels.

A GPU reads the weights of a small decoder in two milliseconds, and a kernel takes two microseconds to start,
whatever it does. So a step is written to start few: one product for query, key and value; the addition to
the stream and the norm behind it as one operator; rotation, writing into the cache and attention as another
(`GroupQueryAttention`). Its CUDA kernels read in one direction only, which for a single token is all there
is; a prefill, whose tokens see each other both ways, uses the standard operators of in_place.py.

What is computed in which precision:

    float32      residual stream, norms, patch embedding, positions, softmax and sums (within the kernels)
    bfloat16 (or float16)   products and what lies between them, cache
    float16      table, as embedding and as head: words' scores lie closer together than bfloat16's
                 eight bits tell apart, and what the last norm gives is in float16's range. The likeliest
                 words are scored in float32 besides.

Legend: B batch, S image side in pixels, I patches, N image tokens of a row, T prompt tokens of the longest
row, M tokens of a call (N + T), A query heads, K key-value heads, H head width, C cache slots, D width, V
vocabulary, P positions of the context.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paligemma_onnx.model.attention import softcap
from paligemma_onnx.model.cache import KeyValue
from paligemma_onnx.model.config import TextConfig
from paligemma_onnx.model.gemma import DecoderLayer, Gemma, RMSNorm
from paligemma_onnx.model.paligemma import PaliGemma
from paligemma_onnx.model.siglip import EncoderLayer

from .cuda_weights import COS, GAIN, PACKED, SIN, decoder_layers, own_name
from .in_place_decoder import attend, scatter_kv, split_heads
from .onnx_ops import operator

CANDIDATES = 32  # words whose scores are not left rounded


class CudaVisionEncoder(nn.Module):
    """Pictures to image tokens; to be traced only."""

    def __init__(self, model: PaliGemma) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        """float32[B, 3, S, S] -> float32[B, I, D]."""
        tower, project = self.model.vision_tower, self.model.multi_modal_projector.linear
        dtype = project.weight.dtype
        x = tower.embeddings(pixel_values)
        for layer in tower.encoder.layers:
            x = _encoder_layer(x, cast("EncoderLayer", layer), dtype)
        features: Tensor = project(tower.post_layernorm(x).to(dtype)).float()
        return features


class CudaPrefill(nn.Module):
    """Image features and prompt behind what the cache holds; to be traced only."""

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
        """As DecoderInPlace; image_features and logits are float32, the cache is in half precision."""
        decoder = self.model.language_model
        text = decoder.embed(input_ids, torch.float32)
        x = torch.cat([image_features, text], dim=1)
        rows, tokens = x.shape[:2]
        new = image_features.shape[1] + text_lengths
        positions = past_lengths[:, None] + torch.arange(tokens, device=x.device)
        attend = _Prefix(decoder, positions, past_lengths, past_lengths + new)
        x, added, cache = _layers(decoder, x, past, attend)
        last = torch.arange(rows, device=x.device) * tokens + new - 1
        rows_of = [part.flatten(0, 1).index_select(0, last) for part in (x, added)]
        return _logits(decoder, *rows_of), *cache


class CudaDecode(nn.Module):
    """One token behind what each row's cache holds; to be traced only."""

    def __init__(self, model: PaliGemma) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, past_lengths: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        """Add one token to each row.

        Args:
            input_ids: int64[B, 1].
            past_lengths: int64[B], slots of each row that are in use.
            past: key and value of each layer in turn, half[B, K, C, H].

        Returns:
            logits float32[B, V], and the cache.
        """
        decoder = self.model.language_model
        x = decoder.embed(input_ids, torch.float32)
        attend = _Step(decoder, past_lengths, past[0])
        x, added, cache = _layers(decoder, x, past, attend)
        return _logits(decoder, x.flatten(0, 1), added.flatten(0, 1)), *cache


class _Prefix:
    """Attention of many tokens, each of which sees all slots that its row uses after the call."""

    def __init__(
        self, decoder: Gemma, positions: Tensor, past_lengths: Tensor, lengths_after: Tensor
    ) -> None:
        self.decoder, self.positions = decoder, positions
        self.past_lengths, self.lengths_after = past_lengths, lengths_after

    def __call__(
        self,
        packed: Tensor,
        past: KeyValue,
        window: int | None,  # noqa: ARG002  a prefix is bidirectional over its whole length
    ) -> tuple[Tensor, KeyValue]:
        config = self.decoder.config
        widths = [count * config.head_dim for count in _heads_of(config)]
        query, key, value = packed.split(widths, dim=2)
        query, key = self._rotated(query, config), self._rotated(key, config)
        kept = scatter_kv(past, key, value, self.past_lengths, config)
        mixed = attend(split_heads(query, config), kept, None, self.lengths_after, config)
        return mixed.transpose(1, 2).flatten(2), kept

    def _rotated(self, x: Tensor, config: TextConfig) -> Tensor:
        attributes = {"num_heads": x.shape[2] // config.head_dim}
        inputs = (x, *_tables(self.decoder), self.positions)
        return operator("RotaryEmbedding", inputs, attributes, like=(x,))[0]


class _Step:
    """Attention of one token: rotated, written and answered by one operator."""

    def __init__(self, decoder: Gemma, past_lengths: Tensor, past: Tensor) -> None:
        self.decoder = decoder
        # The operator's number: slots in use after the call, less 1.
        self.past_lengths = past_lengths.to(torch.int32)
        # What it plans its work by; all slots there are, since a recorded step is played back as it was.
        self.slots = torch.full((), past.shape[2], dtype=torch.int32)

    def __call__(self, packed: Tensor, past: KeyValue, window: int | None) -> tuple[Tensor, KeyValue]:
        config = self.decoder.config
        queries, _, groups = _heads_of(config)
        attributes = {
            "num_heads": queries,
            "kv_num_heads": groups,
            "do_rotary": 1,
            "scale": config.query_pre_attn_scalar**-0.5,
            "softcap": config.attn_logit_softcapping or 0.0,  # 0: no cap
            "local_window_size": -1 if window is None else window,  # -1: none
        }
        where = (self.past_lengths, self.slots, *_tables(self.decoder))
        inputs: tuple[Tensor | None, ...] = (packed, None, None, *past, *where)
        mixed = packed.new_empty(*packed.shape[:2], queries * config.head_dim)
        found, *seen = operator("com.microsoft::GroupQueryAttention", inputs, attributes, like=(mixed, *past))
        return found, KeyValue(*seen)


def _layers(
    decoder: Gemma, x: Tensor, past: tuple[Tensor, ...], attend: _Prefix | _Step
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Every layer: the stream, what is still to be added to it, and the cache.

    A layer's last addition is left to the norm behind it, which adds and normalises at once.
    """
    cache: list[Tensor] = []
    added: Tensor | None = None
    pairs = [KeyValue(*pair) for pair in zip(past[::2], past[1::2], strict=True)]
    for index, (layer, kept) in enumerate(zip(decoder_layers(decoder), pairs, strict=True)):
        attend_layer = partial(attend, window=decoder.config.window(index))
        x, added, seen = _layer(layer, x, added, kept, attend_layer)
        cache += seen
    assert added is not None, "a decoder has a layer"
    return x, added, tuple(cache)


def _tables(decoder: Gemma) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every position."""
    return decoder.get_buffer(own_name(COS)), decoder.get_buffer(own_name(SIN))


def _layer(
    layer: DecoderLayer,
    x: Tensor,
    added: Tensor | None,
    past: KeyValue,
    attend: Callable[[Tensor, KeyValue], tuple[Tensor, KeyValue]],
) -> tuple[Tensor, Tensor, KeyValue]:
    attention, dtype = layer.self_attn, past.key.dtype
    normed, x = _sum_normed(x, added, layer.input_layernorm)
    packed = getattr(attention, PACKED)(normed.to(dtype))
    mixed, seen = attend(packed, past)
    added = attention.o_proj(mixed).float()
    before_mlp = layer.post_attention_layernorm
    if layer.has_post_norms:
        added, before_mlp = _normed(added, layer.post_attention_layernorm), layer.pre_feedforward_layernorm
    normed, x = _sum_normed(x, added, before_mlp)
    added = layer.mlp(normed.to(dtype)).float()
    if layer.has_post_norms:
        added = _normed(added, layer.post_feedforward_layernorm)
    return x, added, seen


def _logits(decoder: Gemma, x: Tensor, added: Tensor) -> Tensor:
    """float32[B, D] and what is to be added to it -> float32[B, V].

    Half precision rounds a score of 20 to a sixty-fourth, and words, above all locations, lie closer
    together. So the likeliest are scored once more in float32, from their rows of the table.
    """
    normed, _ = _sum_normed(x, added, decoder.norm)
    table = decoder.embed_tokens.weight
    scores = F.linear(normed.to(table.dtype), table)
    likely = scores.topk(min(CANDIDATES, len(table))).indices  # [B, 32]
    again = decoder.embed_tokens(likely, torch.float32) @ normed[:, :, None]  # [B, 32, 1]
    logits = scores.float().scatter(1, likely, again.squeeze(2))
    return softcap(logits, decoder.config.final_logit_softcapping)


def _normed(x: Tensor, norm: RMSNorm) -> Tensor:
    """RMSNorm as one operator: float32[..., D] -> the same."""
    gain = getattr(norm, GAIN)
    return operator("RMSNormalization", (x, gain), {"axis": -1, "epsilon": norm.eps}, like=(x,))[0]


def _sum_normed(x: Tensor, added: Tensor | None, norm: RMSNorm) -> tuple[Tensor, Tensor]:
    """The norm of x + added, and x + added."""
    if added is None:
        return _normed(x, norm), x
    gain = getattr(norm, GAIN)
    normed, _, _, total = operator(
        "com.microsoft::SkipSimplifiedLayerNormalization",
        (x, added, gain),
        {"epsilon": norm.eps},
        like=(x, x[..., :1], x[..., :1], x),
    )
    return normed, total


def _encoder_layer(x: Tensor, layer: EncoderLayer, dtype: torch.dtype) -> Tensor:
    """One layer of the vision tower, float32[B, I, D] -> the same."""
    attention, normed = layer.self_attn, layer.layer_norm1(x).to(dtype)
    query, key, value = attention.q_proj(normed), attention.k_proj(normed), attention.v_proj(normed)
    split_heads = {"q_num_heads": attention.num_heads, "kv_num_heads": attention.num_heads}
    scale = {"scale": attention.head_dim**-0.5, "is_causal": 0}
    (mixed,) = operator("Attention", (query, key, value), {**split_heads, **scale}, like=(query,))
    x = x + attention.out_proj(mixed).float()
    mlp: Tensor = layer.mlp(layer.layer_norm2(x).to(dtype))
    return x + mlp.float()


def _heads_of(config: TextConfig) -> tuple[int, int, int]:
    """Heads of query, key and value."""
    return config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads
