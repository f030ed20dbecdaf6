"""Pack weights for graphs of few nodes: one projection for query, key and value, and complete norm gains.

A packed projection is computed from three tensors of the checkpoint, a gain from one tensor. Each result is
computed when it is written to the file, so only one result is in memory at a time.

Shapes: docs/notation.md.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from paligemma_onnx.model.config import TextConfig
from paligemma_onnx.model.gemma import DecoderLayer, Gemma, RMSNorm
from paligemma_onnx.model.linear import Linear

from ..sources.tensor_source import TensorSource

PACKED = "qkv_proj"  # query, key and value projections concatenated, [(A + 2K) * H, D]
PARTS = ("q_proj", "k_proj", "v_proj")
GAIN = "gain"  # the gain of an RMSNorm: the stored weight plus 1


def pack_decoder(decoder: Gemma) -> None:
    """Replace the projections and norm weights of a decoder on the meta device by packed ones."""
    config = decoder.config
    heads = config.num_attention_heads + 2 * config.num_key_value_heads
    with torch.device("meta"):
        for layer in decoder_layers(decoder):
            attention = layer.self_attn
            attention.add_module(PACKED, Linear(config.hidden_size, heads * config.head_dim, bias=False))
            for part in PARTS:
                delattr(attention, part)
        for module in decoder.modules():
            if isinstance(module, RMSNorm):
                module.register_parameter(GAIN, nn.Parameter(torch.empty_like(module.weight)))
                del module.weight
    decoder.requires_grad_(False)


class PackedCheckpoint:
    """The tensors of a decoder packed by `pack_decoder`, computed from a checkpoint.

    Attributes:
        source: the tensors of the checkpoint.
        config: configuration of the decoder.
        folded: number of query heads of a key-value head that `Attention` reads as rows of one head (F). A
            checkpoint stores the G query heads of the first key-value head, then those of the second, and so
            on: [K, F, G / F]. Packed weights have the query heads in the order [F, K, G / F], and the columns
            of o_proj in the same order. With F = 1 or K = 1 this is the checkpoint's order.
    """

    def __init__(self, source: TensorSource, config: TextConfig, folded: int = 1) -> None:
        self.source, self.config, self.folded = source, config, folded

    def tensor(self, name: str) -> Tensor:
        """Return a gain of a norm, a packed projection, or another tensor of the source."""
        module, _, parameter = name.rpartition(".")
        if parameter == GAIN:
            return 1.0 + self.source.tensor(f"{module}.weight").float()
        if module.endswith(f".{PACKED}"):
            query, *others = (
                self.source.tensor(f"{module.removesuffix(PACKED)}{part}.{parameter}") for part in PARTS
            )
            return torch.cat([query[head_order(self.config, self.folded)], *others])
        tensor = self.source.tensor(name)
        if module.startswith("language_model.") and module.endswith(".o_proj"):
            # The weight [D, A * H], or factors of its inputs [A * H].
            return tensor[..., head_order(self.config, self.folded)]
        return tensor


def head_order(config: TextConfig, folded: int) -> Tensor:
    """Return the rows of a checkpoint's q_proj in the order of packed weights, int64[A * H].

    Args:
        config: configuration of the decoder.
        folded: as in PackedCheckpoint.
    """
    heads = config.num_key_value_heads, folded, -1, config.head_dim
    width = config.num_attention_heads * config.head_dim
    return torch.arange(width, device="cpu").view(heads).transpose(0, 1).flatten()


def packed_rows(config: TextConfig, folded: int) -> dict[str, Tensor]:
    """Return where the rows of each projection are in the packed projection: int64[out], by name.

    Args:
        config: configuration of the decoder.
        folded: as in PackedCheckpoint.
    """
    query, width = head_order(config, folded).argsort(), config.num_key_value_heads * config.head_dim
    key = len(query) + torch.arange(width, device="cpu")
    return dict(zip(PARTS, (query, key, key + width), strict=True))


def decoder_layers(decoder: Gemma) -> list[DecoderLayer]:
    """Return the layers of the decoder in order, typed as DecoderLayer."""
    return [cast("DecoderLayer", layer) for layer in decoder.layers]
