"""Scale channels across layers before quantisation. The model computes the same function.

In real decoders a few activation channels (outlier channels) are 50 times larger than the others, and the
weights that read them are smaller by the same factor. Quantised directly, the large channels determine the
scale and the small ones are rounded to zero. But a channel may be multiplied by any factor if the weights
that read it are divided by the same factor (cross-layer equalisation). Four kinds of channels are scaled. The
first three cost no operation in the graph, the fourth one element-wise product of a few thousand numbers:

    norm gain       ->  columns of the matrices that read the norm
    up_proj rows    ->  columns of down_proj (the gate only multiplies the output of up_proj)
    v_proj rows     ->  columns of out_proj (vision)
    a Mul node      ->  columns of o_proj (the decoder's v_proj is not scaled: the KV cache holds its output)

The factors. Let d_j be the magnitude of channel j before scaling (norm gain, or largest weight of the row
that produces it) and F = W diag(d) the reading matrix with these magnitudes folded in. Each row of F is
divided by its largest weight, because each output has its own quantisation scales, and p_j is the root mean
square of column j of the result: the importance of channel j. The channel is scaled to the magnitude
p_j^ALPHA, and its column takes the remaining factor. Moving a factor from d_j into the weights changes
neither F nor the result, so a checkpoint with injected outlier channels is quantised to the same codes as the
original. Factors are powers of two, so scaling a weight is exact; only norm gains, which are stored minus 1,
are rounded. (After SmoothQuant, arXiv 2211.10438, equation 4, with weights in place of calibration data.)

Shapes: docs/notation.md.
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

# Share of a channel's importance that stays in the activation: 0 moves all of it into the weights, 1 none.
ALPHA = 0.5
MIN_IMPORTANCE = 2.0**-20  # relative to the mean; lower bound for channels whose weights are all zero
INPUT_SCALES = "input_scales"  # last part of an initializer's name: factors for the input of a matrix


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that are scaled together: the module that produces them and the matrices that read them."""

    kind: Literal["rms_norm", "layer_norm", "rows", "heads"]
    producer: str  # name of a norm, or of the matrix whose rows produce the channels
    consumers: tuple[str, ...]  # names of matrices


@dataclass(frozen=True)
class ScaledCheckpoint:
    """Tensors of a checkpoint with scaled channels; the model they define computes the same function."""

    source: TensorSource
    config: PaliGemmaConfig
    _factors: dict[ChannelGroup, Tensor] = field(default_factory=dict, init=False)

    def tensor(self, name: str) -> Tensor:
        """Return a tensor in the source's dtype, or in float32 if one of its channels is scaled.

        `NAME.input_scales` is the factor for the input of matrix NAME, float32[in]; only graphs have it.
        """
        module, _, parameter = name.rpartition(".")
        if parameter == INPUT_SCALES:
            return self._factor(self._group_read_by[module])
        tensor = self.source.tensor(name)
        if parameter == "weight" and module in self._group_read_by and tensor.dim() == 2:
            tensor = tensor.to(torch.float32) / self._factor(self._group_read_by[module])
        group = self._group_produced_by.get(module)
        if group is None or group.kind == "heads":
            return tensor
        factor, tensor = self._factor(group), tensor.to(torch.float32)
        match group.kind, parameter:
            case "rms_norm", _:
                return (1 + tensor) * factor - 1  # the stored weight is the gain minus 1
            case "rows", "weight":
                return tensor * factor[:, None]
            case _:
                return tensor * factor

    @cached_property
    def _group_read_by(self) -> dict[str, ChannelGroup]:
        return {name: group for group in channel_groups(self.config) for name in group.consumers}

    @cached_property
    def _group_produced_by(self) -> dict[str, ChannelGroup]:
        return {group.producer: group for group in channel_groups(self.config)}

    def _factor(self, group: ChannelGroup) -> Tensor:
        """Return the factor of each channel, float32[channels], powers of two."""
        if group not in self._factors:
            self._factors[group] = self._compute_factor(group)
        return self._factors[group]

    def _compute_factor(self, group: ChannelGroup) -> Tensor:
        magnitude = self._magnitude(group)
        importance = torch.zeros_like(magnitude)
        for consumer in group.consumers:
            folded = self.source.tensor(f"{consumer}.weight").to(torch.float32) * magnitude
            folded /= folded.abs().amax(dim=1, keepdim=True)
            importance += folded.nan_to_num_(0.0).square().sum(dim=0)
        importance = (importance / importance.mean()).sqrt().clamp(min=MIN_IMPORTANCE)
        factor = torch.exp2(torch.log2(importance**ALPHA / magnitude).round())
        return torch.where((magnitude > 0) & factor.isfinite() & (factor > 0), factor, 1.0)

    def _magnitude(self, group: ChannelGroup) -> Tensor:
        """Return the magnitude of each channel before scaling, float32[channels]."""
        weight = f"{group.producer}.weight"
        match group.kind:
            case "rms_norm":
                return (1 + self.source.tensor(weight).to(torch.float32)).abs()
            case "layer_norm":
                return self.source.tensor(weight).to(torch.float32).abs()
        rows = self.source.tensor(weight).to(torch.float32)
        input_group = self._group_read_by.get(group.producer)
        if input_group is not None:  # the producer's columns are scaled by the group that it reads
            rows = rows / self._factor(input_group)
        row_maxima = rows.abs().amax(dim=1)
        if group.kind == "rows":
            return row_maxima
        # The query heads of a key-value head are adjacent: [K * H] -> [A * H].
        text = self.config.text_config
        repeated: Tensor = row_maxima.view(-1, 1, text.head_dim).expand(-1, text.query_groups, -1).flatten()
        return repeated


def channel_groups(config: PaliGemmaConfig) -> Iterator[ChannelGroup]:
    """Yield every group of channels of a model."""
    for index in range(config.vision_config.num_hidden_layers):
        layer = f"vision_tower.encoder.layers.{index}"
        attention = f"{layer}.self_attn"
        projections = tuple(f"{attention}.{name}_proj" for name in "qkv")
        yield ChannelGroup("layer_norm", f"{layer}.layer_norm1", projections)
        yield ChannelGroup("rows", f"{attention}.v_proj", (f"{attention}.out_proj",))
        yield ChannelGroup("layer_norm", f"{layer}.layer_norm2", (f"{layer}.mlp.fc1",))
    yield ChannelGroup("layer_norm", "vision_tower.post_layernorm", ("multi_modal_projector.linear",))
    text = config.text_config
    norm_before_mlp = "pre_feedforward_layernorm" if text.has_post_norms else "post_attention_layernorm"
    for index in range(text.num_hidden_layers):
        layer = f"language_model.layers.{index}"
        attention, mlp = f"{layer}.self_attn", f"{layer}.mlp"
        projections = tuple(f"{attention}.{name}_proj" for name in "qkv")
        yield ChannelGroup("rms_norm", f"{layer}.input_layernorm", projections)
        yield ChannelGroup("heads", f"{attention}.v_proj", (f"{attention}.o_proj",))
        yield ChannelGroup("rms_norm", f"{layer}.{norm_before_mlp}", (f"{mlp}.gate_proj", f"{mlp}.up_proj"))
        yield ChannelGroup("rows", f"{mlp}.up_proj", (f"{mlp}.down_proj",))
