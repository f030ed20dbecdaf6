"""Channels brought to a common range where that changes no result, so that few bits lose little.

Activations of real decoders have channels that are 50 times larger than the rest, and the weights behind
them are as much smaller. Quantised as they are, the large channels set the scale and the small ones are
rounded away. But a channel may be multiplied by any number if the weights that read it are divided by it.
Four places do that without a node more in the graph, or with one of a few thousand products:

    norm gain       ->  columns of the matrices behind the norm
    up_proj rows    ->  columns of down_proj (the gate only scales what comes from up_proj)
    v_proj rows     ->  columns of out_proj (vision)
    a Mul node      ->  columns of o_proj (the decoder's v_proj is left alone: what it gives is the cache)

The rule. Let d_j be the channel's strength before (norm gain, largest weight of the row) and F = W diag(d)
the matrix that takes it in. Each row of F is divided by its largest weight, since every output has scales of
its own, and p_j is the root mean square of what is left of column j: how much channel j matters. The channel
then gets the strength p_j^ALPHA and its column the rest. F does not change when a factor moves from d_j to
the weights, so neither does the result: a checkpoint with injected outliers is quantised as it was before.
Factors are powers of two, whose products are exact (after SmoothQuant, arXiv 2211.10438, equation 4, with
weights instead of calibration data).

Legend: N outputs, K inputs of a matrix, A query heads, H head width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from paligemma_onnx.model.config import PaliGemmaConfig

from ..sources.tensor_source import TensorSource

# 0 leaves all unevenness to the weights, 1 to the activations.
ALPHA = 0.5
INPUT_SCALES = "input_scales"  # of a matrix: what its input is multiplied by, an initialiser of the graph


@dataclass(frozen=True)
class ChannelGroup:
    """Channels between the tensors that make them and the matrices that read them."""

    kind: Literal["rms_norm", "layer_norm", "rows", "heads"]
    maker: str  # module: a norm, or the matrix whose rows the channels are
    readers: tuple[str, ...]  # modules


@dataclass(frozen=True)
class ScaledCheckpoint:
    """A checkpoint whose channels have been brought to a common range; it computes what it did."""

    source: TensorSource
    config: PaliGemmaConfig
    _factors: dict[ChannelGroup, Tensor] = field(
        default_factory=dict, init=False
    )  # float32[K], once computed

    def tensor(self, name: str) -> Tensor:
        """One tensor: as the source has it, or in float32 where a channel of it changed."""
        module, _, kind = name.rpartition(".")
        if kind == INPUT_SCALES:
            return self._factor(self._read_by[module])
        tensor = self.source.tensor(name)
        if kind == "weight" and module in self._read_by and tensor.dim() == 2:
            tensor = tensor.to(torch.float32) / self._factor(self._read_by[module])
        made = self._made_by.get(module)
        if made is None or made.kind == "heads":
            return tensor
        factor, wide = self._factor(made), tensor.to(torch.float32)
        match made.kind, kind:
            case "rms_norm", _:
                return (1 + wide) * factor - 1  # the stored weight is the gain minus 1
            case "rows", "weight":
                return wide * factor[:, None]
            case _:
                return wide * factor

    @cached_property
    def _read_by(self) -> dict[str, ChannelGroup]:
        return {reader: channels for channels in _all(self.config) for reader in channels.readers}

    @cached_property
    def _made_by(self) -> dict[str, ChannelGroup]:
        return {channels.maker: channels for channels in _all(self.config)}

    def _factor(self, channels: ChannelGroup) -> Tensor:
        """What each channel is multiplied by: float32[K], powers of two."""
        if channels not in self._factors:
            self._factors[channels] = self._balance(channels)
        return self._factors[channels]

    def _balance(self, channels: ChannelGroup) -> Tensor:
        strength = self._strength(channels)
        matters = torch.zeros_like(strength)
        for reader in channels.readers:
            folded = self.source.tensor(f"{reader}.weight").to(torch.float32) * strength
            folded /= folded.abs().amax(dim=1, keepdim=True)
            matters += folded.nan_to_num_(0.0).square().sum(dim=0)
        matters = (matters / matters.mean()).sqrt().clamp(min=2.0**-20)  # a channel nobody reads
        factor = torch.exp2(torch.log2(matters**ALPHA / strength).round())
        return torch.where((strength > 0) & factor.isfinite() & (factor > 0), factor, 1.0)

    def _strength(self, channels: ChannelGroup) -> Tensor:
        """How large the channels are before: float32[K]."""
        weight = f"{channels.maker}.weight"
        match channels.kind:
            case "rms_norm":
                return (1 + self.source.tensor(weight).to(torch.float32)).abs()
            case "layer_norm":
                return self.source.tensor(weight).to(torch.float32).abs()
        # The maker reads balanced channels itself; its own rows are what is balanced here.
        rows = self.source.tensor(weight).to(torch.float32)
        before = self._read_by.get(channels.maker)
        if before is not None:
            rows = rows / self._factor(before)
        largest = rows.abs().amax(dim=1)
        if channels.kind == "rows":
            return largest
        # Query heads that share a key head follow each other: [heads of keys * H] -> [A * H].
        text = self.config.text_config
        repeated: Tensor = largest.view(-1, 1, text.head_dim).expand(-1, text.query_groups, -1).flatten()
        return repeated


def _all(config: PaliGemmaConfig) -> Iterator[ChannelGroup]:
    for index in range(config.vision_config.num_hidden_layers):
        layer = f"vision_tower.encoder.layers.{index}"
        attention = f"{layer}.self_attn"
        projections = tuple(f"{attention}.{name}_proj" for name in "qkv")
        yield ChannelGroup("layer_norm", f"{layer}.layer_norm1", projections)
        yield ChannelGroup("rows", f"{attention}.v_proj", (f"{attention}.out_proj",))
        yield ChannelGroup("layer_norm", f"{layer}.layer_norm2", (f"{layer}.mlp.fc1",))
    yield ChannelGroup("layer_norm", "vision_tower.post_layernorm", ("multi_modal_projector.linear",))
    text = config.text_config
    before_mlp = "pre_feedforward_layernorm" if text.has_post_norms else "post_attention_layernorm"
    for index in range(text.num_hidden_layers):
        layer = f"language_model.layers.{index}"
        attention, mlp = f"{layer}.self_attn", f"{layer}.mlp"
        projections = tuple(f"{attention}.{name}_proj" for name in "qkv")
        yield ChannelGroup("rms_norm", f"{layer}.input_layernorm", projections)
        yield ChannelGroup("heads", f"{attention}.v_proj", (f"{attention}.o_proj",))
        yield ChannelGroup("rms_norm", f"{layer}.{before_mlp}", (f"{mlp}.gate_proj", f"{mlp}.up_proj"))
        yield ChannelGroup("rows", f"{mlp}.up_proj", (f"{mlp}.down_proj",))
