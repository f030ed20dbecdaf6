"""The graphs: their inputs and outputs, declared once, and the verb each one is.

The declaration feeds the trace (example inputs, varying dimensions, names), the manifest, and through the
manifest the check at load.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from paligemma_onnx.model.cache import KeyValue
from paligemma_onnx.model.config import PaliGemmaConfig
from paligemma_onnx.model.mask_decoder import SIDE, MaskDecoder
from paligemma_onnx.model.paligemma import PaliGemma
from paligemma_onnx.runtime.bundle.schema import (
    SEG_TOKENS_PER_MASK,
    CacheUpdate,
    Graphs,
    GraphSpec,
    TensorSpec,
)

from ..precisions import HalfType, Precision
from .cuda_graphs import CudaDecode, CudaPrefill, CudaVisionEncoder
from .cuda_weights import check_width
from .in_place_decoder import InPlaceDecoder

# Varying dimensions and the sizes they are traced with: all different, and neither 0 nor 1, which the
# tracer would take for constants.
EXAMPLE_SIZES = {
    "batch": 2,
    "text_tokens": 7,
    "image_tokens": 11,
    "past_slots": 5,
    "cache_slots": 5,
    "masks": 3,
}
DECODER_DATA = "decoder.data"
PAST_LENGTHS = TensorSpec("past_lengths", "int64", ("batch",))
# For a cache that grows, the newest opset that onnxruntime, its web build, the ONNX reference evaluator and
# OpenVINO all run whole. It has Gelu (20) and LayerNormalization (17). In place needs TensorScatter (24).
OPSETS: dict[CacheUpdate, int] = {"grow": 20, "in_place": 24}


@dataclass(frozen=True)
class GraphDefinition:
    """A graph to be: what it takes and gives, and the module that computes it."""

    name: str  # of the graph; two of one name are the same before a precision is put into them
    spec: GraphSpec
    weight_file: str  # prefill and decode share one
    module: Callable[[PaliGemma], nn.Module]
    opset: int


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


class _DecodeStep(nn.Module):
    def __init__(self, model: PaliGemma) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, past_lengths: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        cache = tuple(KeyValue(*pair) for pair in zip(past[::2], past[1::2], strict=True))
        logits, cache = self.model.decode_step(input_ids, past_lengths, cache)
        return logits, *(tensor for layer in cache for tensor in layer)


class _DecodeMasks(nn.Module):
    def __init__(self, mask_decoder: MaskDecoder) -> None:
        super().__init__()
        self.mask_decoder = mask_decoder

    def forward(self, codes: Tensor) -> Tensor:
        masks: Tensor = self.mask_decoder(codes)
        return masks


def graph_definitions(
    config: PaliGemmaConfig, precision: Precision, mask_decoder: MaskDecoder | None = None
) -> dict[str, GraphDefinition]:
    """The graphs of a configuration, by their names in the manifest.

    Args:
        config: the model.
        precision: decides whether decode gives a cache that is a slot longer, or writes into the one it
            gets. Prefill then does so, too, and both are the same verb; not so in half precision.
        mask_decoder: becomes a graph of its own, if there is one.

    Raises:
        CheckpointError: the precision's operators do not take such a model.
    """
    vision, width = config.vision_config, config.text_config.hidden_size
    side = vision.image_size
    update = precision.cache
    if precision.half_dtype is not None:
        decoder = _on_device(config, precision.half_dtype)
    else:
        decoder = _in_place(config) if update == "in_place" else _grow(config)
    return {
        "vision_encoder": GraphDefinition(
            "vision_encoder",
            GraphSpec(
                "vision_encoder.onnx",
                (TensorSpec("pixel_values", "float32", ("batch", 3, side, side)),),
                (TensorSpec("image_features", "float32", ("batch", vision.num_patches, width)),),
            ),
            "vision_encoder.data",
            _EncodeImage if precision.half_dtype is None else CudaVisionEncoder,
            OPSETS[update],
        ),
        **decoder,
        **({} if mask_decoder is None else {"mask_decoder": _masks(mask_decoder, OPSETS[update])}),
    }


def _masks(decoder: MaskDecoder, opset: int) -> GraphDefinition:
    """Codes of a mask become a map; its sizes are the decoder's own."""
    spec = GraphSpec(
        "mask_decoder.onnx",
        (TensorSpec("codes", "int64", ("masks", SEG_TOKENS_PER_MASK)),),
        (TensorSpec("masks", "float32", ("masks", SIDE, SIDE)),),
    )
    without_weights = MaskDecoder(decoder.codebook_width, decoder.width).to("meta")
    return GraphDefinition(
        "mask_decoder", spec, "mask_decoder.data", lambda _: _DecodeMasks(without_weights), opset
    )


def _grow(config: PaliGemmaConfig) -> dict[str, GraphDefinition]:
    """Prefill makes a cache, decode a longer one: standard operators only."""
    prefill = GraphSpec(
        "prefill.onnx",
        _prompt(config),
        (_logits(config), *_cache("present", config, "image_tokens + text_tokens")),
    )
    decode = GraphSpec(
        "decode.onnx",
        (
            TensorSpec("input_ids", "int64", ("batch", 1)),
            PAST_LENGTHS,
            *_cache("past_key_values", config, "past_slots"),
        ),
        (_logits(config), *_cache("present", config, "past_slots + 1")),
    )
    return {
        "prefill": GraphDefinition("prefill", prefill, DECODER_DATA, _Prefill, OPSETS["grow"]),
        "decode": GraphDefinition("decode", decode, DECODER_DATA, _DecodeStep, OPSETS["grow"]),
    }


def _in_place(config: PaliGemmaConfig) -> dict[str, GraphDefinition]:
    """Prefill and decode write into the cache they are given."""
    inputs = (*_prompt(config), PAST_LENGTHS, *_cache("past_key_values", config, "cache_slots"))
    outputs = (_logits(config), *_cache("present", config, "cache_slots"))
    return {
        name: GraphDefinition(
            "decoder",
            GraphSpec(f"{name}.onnx", inputs, outputs),
            DECODER_DATA,
            InPlaceDecoder,
            OPSETS["in_place"],
        )
        for name in ("prefill", "decode")
    }


def _on_device(config: PaliGemmaConfig, dtype: HalfType) -> dict[str, GraphDefinition]:
    """As _in_place, but a step is a graph of its own that takes a token and nothing else."""
    check_width(config.text_config)
    past = _cache("past_key_values", config, "cache_slots", dtype)
    outputs = (_logits(config), *_cache("present", config, "cache_slots", dtype))
    prefill = GraphSpec("prefill.onnx", (*_prompt(config), PAST_LENGTHS, *past), outputs)
    token = TensorSpec("input_ids", "int64", ("batch", 1))
    decode = GraphSpec("decode.onnx", (token, PAST_LENGTHS, *past), outputs)
    return {
        "prefill": GraphDefinition("prefill", prefill, DECODER_DATA, CudaPrefill, OPSETS["in_place"]),
        "decode": GraphDefinition("decode", decode, DECODER_DATA, CudaDecode, OPSETS["in_place"]),
    }


def _prompt(config: PaliGemmaConfig) -> tuple[TensorSpec, ...]:
    features = ("batch", "image_tokens", config.text_config.hidden_size)
    return (
        TensorSpec("input_ids", "int64", ("batch", "text_tokens")),
        TensorSpec("image_features", "float32", features),
        TensorSpec("text_lengths", "int64", ("batch",)),
    )


def _logits(config: PaliGemmaConfig) -> TensorSpec:
    return TensorSpec("logits", "float32", ("batch", config.text_config.vocab_size))


def graph_specs(verbs: dict[str, GraphDefinition]) -> Graphs:
    """The declarations as the manifest holds them."""
    return Graphs(**{name: verb.spec for name, verb in verbs.items()})


def _cache(
    prefix: str, config: PaliGemmaConfig, slots: str, dtype: Literal["float32"] | HalfType = "float32"
) -> tuple[TensorSpec, ...]:
    text = config.text_config
    shape = ("batch", text.num_key_value_heads, slots, text.head_dim)
    return tuple(
        TensorSpec(f"{prefix}.{layer}.{kind}", dtype, shape)
        for layer in range(text.num_hidden_layers)
        for kind in KeyValue._fields
    )


def example(spec: TensorSpec) -> Tensor:
    """An input to trace with: shape and dtype, no values."""
    shape = [EXAMPLE_SIZES[size] if isinstance(size, str) else size for size in spec.shape]
    return torch.empty(shape, dtype=getattr(torch, spec.dtype), device="meta")
