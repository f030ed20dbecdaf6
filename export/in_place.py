"""A cache that is updated in place: all its slots are allocated once, and a call writes those of its tokens.

`com.microsoft.GroupQueryAttention` reads a past and gives a present. Where both are bound to the same memory
it writes the new tokens' keys and values into their slots and leaves the rest alone; and it reads no slot
behind a row's length, whatever stands there. So a step costs what it reads, and copies nothing.

Prefill and step are then one graph. A prefill reads many tokens behind no slot, a step one token behind
many, and in both a token sees every slot of its row that is in use after the call: a prefix is read in both
directions, and behind a single token nothing stands yet. Only Gemma 2's window asks for a mask.

Legend: B batch, N image tokens of a row, T prompt tokens of the longest row, M tokens of a call (N + T), A
query heads, K key-value heads, H head width, C cache slots, S of them in use in the longest row, D width, V
vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from paligemma_onnx.model.cache import KeyValue
from paligemma_onnx.model.config import TextConfig
from paligemma_onnx.model.paligemma import PaliGemma
from paligemma_onnx.model.rotary import Rotation
from paligemma_onnx.runtime.errors import OptionError

from .contrib import DOMAIN, VERSION

HEAD_DIM_MULTIPLE = 8  # of the operator's heads


def check_in_place(config: TextConfig) -> None:
    """Raise OptionError for a model whose heads the operator does not take; no published one has such."""
    if config.head_dim % HEAD_DIM_MULTIPLE:
        raise OptionError(
            f"head_dim is {config.head_dim}: a cache updated in place wants a multiple of {HEAD_DIM_MULTIPLE}"
        )


class DecoderInPlace(nn.Module):
    """Image features and tokens behind what the cache holds; to be traced only."""

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
        """Add tokens to each row: N + T to an empty one, or one (N = 0) to one that holds some.

        Args:
            input_ids: int64[B, T], padded on the right.
            image_features: float[B, N, D].
            text_lengths: int64[B], real tokens of each row of input_ids.
            past_lengths: int64[B], slots of each row that are in use.
            past: key and value of each layer in turn, float[B, K, C, H].

        Returns:
            logits float[B, V] behind each row's last token, and the cache.
        """
        decoder, config = self.model.language_model, self.model.config.text_config
        text = decoder.embed(input_ids, image_features.dtype)
        x = torch.cat([image_features, text], dim=1)
        rows, tokens = x.shape[:2]
        new = image_features.shape[1] + text_lengths
        longest = past_lengths.max() + tokens
        core = InPlaceAttention((past_lengths + new - 1).to(torch.int32), longest.to(torch.int32))
        positions = past_lengths[:, None] + torch.arange(tokens, device=x.device)
        nothing = torch.zeros((), device=x.device)
        window = config.sliding_window
        slots = past[0].shape[2]
        masked = nothing if window is None else _window(past_lengths, tokens, slots, window, longest)
        masks = tuple(
            nothing if config.window(layer) is None else masked for layer in range(config.num_hidden_layers)
        )
        cache = tuple(KeyValue(*pair) for pair in zip(past[::2], past[1::2], strict=True))
        x, cache = decoder(x, positions, masks, cache, past_lengths, core)
        last = torch.arange(rows, device=x.device) * tokens + new - 1
        logits = decoder.logits(x.flatten(0, 1).index_select(0, last))
        return logits, *(tensor for layer in cache for tensor in layer)


@dataclass(frozen=True)
class InPlaceAttention:
    """An AttentionCore of the engine's operator; past and present have the same C slots.

    Its mask is what is added to scores of a sliding layer, float[B, 1, M, S]; a global layer needs
    none.
    """

    last_slots: Tensor  # int32[B], of each row after the call: the operator's `seqlens_k`
    longest: Tensor  # int32[], slots of the longest row after the call: its `total_sequence_length`

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        by: Rotation,
        mask: Tensor,
        past: KeyValue | None,
        lengths: Tensor,  # noqa: ARG002  the operator takes those after the call
        config: TextConfig,
        window: int | None,
    ) -> tuple[Tensor, KeyValue]:
        """As AttentionCore."""
        if past is None:
            raise ValueError("a cache that is updated in place has to be there")
        query, key = _rotated(query, by, config), _rotated(key, by, config)
        attributes = {
            "num_heads": config.num_attention_heads,
            "kv_num_heads": config.num_key_value_heads,
            "scale": config.query_pre_attn_scalar**-0.5,
            "softcap": config.attn_logit_softcapping or 0.0,  # 0: no cap
            "causal": 0,
        }
        # Between lengths and mask are three inputs the operator is better without: tables to rotate by.
        masked = () if window is None else (None, None, None, mask)
        mixed, keys, values = _operator(
            f"{DOMAIN}::GroupQueryAttention",
            (query, key, value, *past, self.last_slots, self.longest, *masked),
            attributes,
            like=(query, *past),
        )
        return mixed, KeyValue(keys, values)


def _window(past_lengths: Tensor, tokens: int, slots: int, window: int, longest: Tensor) -> Tensor:
    """What hides the slots a generated token has left behind: float32[B, 1, M, S].

    As in step_mask; behind no slot, that is in a prefill, it hides nothing.
    """
    slot = torch.arange(slots, device=past_lengths.device)
    hidden = slot <= past_lengths[:, None] - window  # [B, C]
    least = torch.finfo(torch.float32).min
    mask = torch.where(hidden, least, 0.0)[:, None, None, :].expand(-1, -1, tokens, -1)
    start, end, axis = torch.zeros_like(longest)[None], longest[None], torch.full_like(longest, 3)[None]
    # Its last axis has `longest` slots and is declared C: an input's value is not a size the tracer knows.
    (cut,) = _operator("::Slice", (mask, start, end, axis), {}, like=(mask,))
    return cut


def _rotated(x: Tensor, by: Rotation, config: TextConfig) -> Tensor:
    """`rotate` as one operator: float[B, M, A*H] -> the same.

    The operator looks angles up in a table by position. The angles of this call are such a table, in which
    those of row b's token m stand at b * M + m. (GroupQueryAttention can rotate as well, but wants the table
    of all positions.)
    """
    rows, tokens = x.shape[:2]
    places = torch.arange(rows * tokens, device=x.device).view(rows, tokens)
    cos, sin = by.cos.flatten(0, 2), by.sin.flatten(0, 2)
    attributes = {"num_heads": x.shape[2] // config.head_dim}
    (rotated,) = _operator(f"{DOMAIN}::RotaryEmbedding", (x, places, cos, sin), attributes, like=(x,))
    return rotated


def _operator(
    name: str,
    inputs: Sequence[Tensor | None],
    attributes: Mapping[str, int | float],
    like: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    """An operator that torch has not; its outputs have the dtypes and shapes of `like`."""
    outputs = torch.onnx.ops.symbolic_multi_out(
        name,
        inputs,
        dict(attributes),
        dtypes=[tensor.dtype for tensor in like],
        shapes=[tensor.shape for tensor in like],
        version=VERSION if name.startswith(DOMAIN) else None,
    )
    # The tracer thinks they are on the CPU.
    return tuple(output.to(tensor.device) for output, tensor in zip(outputs, like, strict=True))
