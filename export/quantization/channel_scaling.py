"""Scale channels across layers before quantisation. The scaled model computes the same function.

In real decoders a few activation channels (outlier channels) are 50 times larger than the others, and the
weights that read them are smaller by the same factor. Quantised directly, the large channels determine the
scale and the small ones are rounded to zero. But a channel may be multiplied by any factor if the weights
that read the channel are divided by the same factor (cross-layer equalisation). Four kinds of channels are
scaled. The first three kinds need no additional operation in the graph. The fourth kind needs an element-wise
product of a few thousand numbers:

    norm gain       ->  columns of the matrices that read the norm
    up_proj rows    ->  columns of down_proj (the gate only multiplies the output of up_proj)
    v_proj rows     ->  columns of out_proj (vision)
    a Mul node      ->  columns of o_proj (v_proj of the decoder is not scaled: its output is in the KV cache)

The factors are computed as follows. Let d_j be the magnitude of channel j before scaling: the norm gain, or
the largest weight of the row that produces channel j. Let W be the matrix that reads the channels, and let F
= W diag(d) be W with the magnitudes folded in. Each row of F is divided by the largest weight of the row,
because each output has its own quantisation scales. The importance p_j of channel j is the root mean square
of column j of the divided matrix. Channel j is scaled to the magnitude p_j^ALPHA, and column j of W takes the
remaining factor.

Moving a factor from d_j into the weights changes neither F nor the importances. A checkpoint with injected
outlier channels is therefore quantised to the same codes as the original checkpoint. Factors are powers of
two, so scaling a weight is exact. Only norm gains are rounded, because checkpoints store the gain minus 1.
The method follows SmoothQuant (arXiv 2211.10438, equation 4), with weights instead of calibration data.

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

# Share of the importance of a channel that stays in the activation. With 0 the whole importance moves into
# the weights, with 1 nothing moves.
ALPHA = 0.5
# Lower bound of an importance, relative to the mean importance; needed for channels whose weights are all
# zero.
MIN_IMPORTANCE = 2.0**-20
INPUT_SCALES = "input_scales"  # last part of the name of the factors that multiply the input of a matrix


@dataclass(frozen=True)
class ChannelGroup:
    """A group of channels: the module that produces the channels, and the matrices that read the channels."""

    kind: Literal["rms_norm", "layer_norm", "rows", "heads"]
    producer: str  # name of a norm, or of a matrix whose rows produce the channels
    consumers: tuple[str, ...]  # names of matrices


@dataclass(frozen=True)
class ScaledCheckpoint:
    """The tensors of a checkpoint with scaled channels. They define a model of the same function."""

    source: TensorSource
    config: PaliGemmaConfig
    _factors: dict[ChannelGroup, Tensor] = field(default_factory=dict, init=False)

    def tensor(self, name: str) -> Tensor:
        """Return a tensor: float32 if one of its channels is scaled, otherwise in the dtype of the source.

        `NAME.input_scales` names the factors for the input of matrix NAME, float32[in]. Graphs read these
        factors, but checkpoints do not have them.
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
                return (1 + tensor) * factor - 1  # a checkpoint stores the gain minus 1
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
        """Return the factor of each channel, float32[channels]; factors are powers of two."""
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
        if input_group is not None:  # another group scales the columns of the producer
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
