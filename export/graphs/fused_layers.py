"""Decoder layers of few nodes: packed projections, and one operator to add to the stream and normalise.

A node of a graph takes microseconds to start, on a CPU and on a GPU. A decode step reads the weights of a
layer in a few milliseconds or less, so the number of nodes matters.

Shapes: docs/notation.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from torch import Tensor

from paligemma_onnx.model.cache import KeyValue
from paligemma_onnx.model.gemma import DecoderLayer, Gemma, RMSNorm

from .onnx_ops import apply_operator
from .packed_weights import GAIN, PACKED, decoder_layers

_LayerAttention = Callable[[Tensor, KeyValue], tuple[Tensor, KeyValue]]


class Attention(Protocol):
    """Attention of a layer, without the input and output projections."""

    def __call__(self, packed: Tensor, past: KeyValue, window: int | None) -> tuple[Tensor, KeyValue]:
        """Attend: packed projections float[B, L, (A + 2K) * H] -> float[B, L, A * H], cache of the layer.

        Args:
            packed: the outputs of the packed projection.
            past: the cache of the layer.
            window: number of slots that a sliding layer sees, or None.
        """


def run_layers(
    decoder: Gemma, x: Tensor, past: Sequence[Tensor], attention: Attention
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Run every layer of a decoder that `pack_decoder` has packed.

    Args:
        decoder: the decoder.
        x: float32[B, L, D], the embedded tokens.
        past: key and value of each layer in turn. Matrix products have the dtype of the cache.
        attention: attention without the input and output projections.

    Returns:
        The residual stream without the last update, the last update, and the cache. The last update is the
        output of the last MLP. The caller adds it to the stream, because one operator adds an update and
        applies the norm that follows.
    """
    cache: list[Tensor] = []
    update: Tensor | None = None
    pairs = [KeyValue(*pair) for pair in zip(past[::2], past[1::2], strict=True)]
    for index, (layer, layer_past) in enumerate(zip(decoder_layers(decoder), pairs, strict=True)):
        layer_attention = partial(attention, window=decoder.config.window(index))
        x, update, present = _run_layer(layer, x, update, layer_past, layer_attention)
        cache += present
    assert update is not None, "a decoder has at least one layer"
    return x, update, tuple(cache)


def _run_layer(
    layer: DecoderLayer, x: Tensor, update: Tensor | None, past: KeyValue, attention: _LayerAttention
) -> tuple[Tensor, Tensor, KeyValue]:
    """Return the residual stream, its last update (float32[B, L, D] each) and the cache after one layer."""
    dtype = past.key.dtype
    normed, x = add_and_normalize(x, update, layer.input_layernorm)
    packed = getattr(layer.self_attn, PACKED)(normed.to(dtype))
    mixed, present = attention(packed, past)
    update = layer.self_attn.o_proj(mixed).float()
    norm_before_mlp = layer.post_attention_layernorm
    if layer.has_post_norms:
        update = _normalize(update, layer.post_attention_layernorm)
        norm_before_mlp = layer.pre_feedforward_layernorm
    normed, x = add_and_normalize(x, update, norm_before_mlp)
    update = layer.mlp(normed.to(dtype)).float()
    if layer.has_post_norms:
        update = _normalize(update, layer.post_feedforward_layernorm)
    return x, update, present


def add_and_normalize(x: Tensor, update: Tensor | None, norm: RMSNorm) -> tuple[Tensor, Tensor]:
    """Return norm(x + update) and x + update, float32[..., D] each, computed by one operator."""
    if update is None:
        return _normalize(x, norm), x
    gain = getattr(norm, GAIN)
    normed, _, _, total = apply_operator(
        "com.microsoft::SkipSimplifiedLayerNormalization",
        (x, update, gain),
        {"epsilon": norm.eps},
        like=(x, x[..., :1], x[..., :1], x),
    )
    return normed, total


def _normalize(x: Tensor, norm: RMSNorm) -> Tensor:
    """Apply an RMSNorm as one operator: float32[..., D] -> the same shape."""
    gain = getattr(norm, GAIN)
    return apply_operator("RMSNormalization", (x, gain), {"axis": -1, "epsilon": norm.eps}, like=(x,))[0]
