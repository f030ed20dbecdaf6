"""The three graphs: their inputs and outputs, declared once, and the verb each one is.

The declaration feeds the trace (example inputs, varying dimensions, names), the manifest, and through the
manifest the check at load.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from paligemma_onnx.model.attention import AttentionCore, eager_attention
from paligemma_onnx.model.cache import KeyValue
from paligemma_onnx.model.config import PaliGemmaConfig
from paligemma_onnx.model.paligemma import PaliGemma
from paligemma_onnx.runtime.manifest import CacheUpdate, Graphs, GraphSpec, TensorSpec

from .in_place import check_in_place, in_place_attention, with_room

# Varying dimensions and the sizes they are traced with: all different, and neither 0 nor 1, which the
# tracer would take for constants.
EXAMPLE_SIZES = {"batch": 2, "text_tokens": 7, "image_tokens": 11, "past_slots": 5, "cache_slots": 5}


@dataclass(frozen=True)
class Verb:
    """A graph to be: what it takes and gives, and the module that computes it."""

    spec: GraphSpec
    weight_file: str  # prefill and decode share one
    module: Callable[[PaliGemma], nn.Module]


class _EncodeImage(nn.Module):
    def __init__(self, model: PaliGemma) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.model.encode_image(pixel_values)


class _Prefill(nn.Module):
    def __init__(self, model: PaliGemma) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, image_features: Tensor, text_lengths: Tensor) -> tuple[Tensor, ...]:
        logits, cache = self.model.prefill(input_ids, image_features, text_lengths)
        return logits, *(tensor for layer in cache for tensor in layer)


class _PrefillWithRoom(nn.Module):
    def __init__(self, model: PaliGemma) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, image_features: Tensor, text_lengths: Tensor, cache_slots: Tensor
    ) -> tuple[Tensor, ...]:
        logits, cache = self.model.prefill(input_ids, image_features, text_lengths)
        return logits, *(tensor for layer in with_room(cache, cache_slots) for tensor in layer)


class _DecodeStep(nn.Module):
    def __init__(self, model: PaliGemma, core: AttentionCore) -> None:
        super().__init__()
        self.model, self.core = model, core

    def forward(self, input_ids: Tensor, past_lengths: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        cache = tuple(KeyValue(*pair) for pair in zip(past[::2], past[1::2], strict=True))
        logits, cache = self.model.decode_step(input_ids, past_lengths, cache, self.core)
        return logits, *(tensor for layer in cache for tensor in layer)


def declare(config: PaliGemmaConfig, update: CacheUpdate = "grow") -> dict[str, Verb]:
    """The three graphs of a configuration, by their names in the manifest.

    Args:
        config: the model.
        update: whether decode gives a cache that is a slot longer, or writes into the one it gets; prefill
            then makes one of `cache_slots` slots, so that nobody has to move it.

    Raises:
        OptionError: the cache of this model cannot be updated in place.
    """
    vision, text = config.vision_config, config.text_config
    in_place = update == "in_place"
    if in_place:
        check_in_place(text)
    side, width = vision.image_size, text.hidden_size
    ids = TensorSpec("input_ids", "int64", ("batch", "text_tokens"))
    logits = TensorSpec("logits", "float32", ("batch", text.vocab_size))
    return {
        "vision_encoder": Verb(
            GraphSpec(
                "vision_encoder.onnx",
                (TensorSpec("pixel_values", "float32", ("batch", 3, side, side)),),
                (TensorSpec("image_features", "float32", ("batch", vision.num_patches, width)),),
            ),
            "vision_encoder.data",
            _EncodeImage,
        ),
        "prefill": Verb(
            GraphSpec(
                "prefill.onnx",
                (
                    ids,
                    TensorSpec("image_features", "float32", ("batch", "image_tokens", width)),
                    TensorSpec("text_lengths", "int64", ("batch",)),
                    *((TensorSpec("cache_slots", "int64", (1,)),) if in_place else ()),
                ),
                (
                    logits,
                    *_cache("present", config, "cache_slots" if in_place else "image_tokens + text_tokens"),
                ),
            ),
            "decoder.data",
            _PrefillWithRoom if in_place else _Prefill,
        ),
        "decode": Verb(
            GraphSpec(
                "decode.onnx",
                (
                    TensorSpec("input_ids", "int64", ("batch", 1)),
                    TensorSpec("past_lengths", "int64", ("batch",)),
                    *_cache("past_key_values", config, "cache_slots" if in_place else "past_slots"),
                ),
                (logits, *_cache("present", config, "cache_slots" if in_place else "past_slots + 1")),
            ),
            "decoder.data",
            partial(_DecodeStep, core=in_place_attention if in_place else eager_attention),
        ),
    }


def specs(verbs: dict[str, Verb]) -> Graphs:
    """The declarations as the manifest holds them."""
    return Graphs(**{name: verb.spec for name, verb in verbs.items()})


def _cache(prefix: str, config: PaliGemmaConfig, slots: str) -> tuple[TensorSpec, ...]:
    text = config.text_config
    shape = ("batch", text.num_key_value_heads, slots, text.head_dim)
    return tuple(
        TensorSpec(f"{prefix}.{layer}.{kind}", "float32", shape)
        for layer in range(text.num_hidden_layers)
        for kind in KeyValue._fields
    )


def example(spec: TensorSpec) -> Tensor:
    """An input to trace with: shape and dtype, no values."""
    shape = [EXAMPLE_SIZES[size] if isinstance(size, str) else size for size in spec.shape]
    return torch.empty(shape, dtype=getattr(torch, spec.dtype), device="meta")
