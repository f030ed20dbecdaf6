"""Definitions of the graphs: the declared inputs and outputs, and the torch function of each graph.

Tracing takes example inputs, dynamic dimensions and names from the definition. The manifest stores the same
declaration, and the runtime compares a graph with the manifest when the runtime loads the graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
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
from . import cpu_vision, cuda_graphs
from .cuda_weights import check_head_dim
from .in_place_decoder import decode_in_place

# Dynamic dimensions and their sizes in the traced example. The sizes differ from each other, except the sizes
# of the two kinds of cache. No size is 0 or 1, because the tracer would take 0 and 1 for constants.
EXAMPLE_SIZES = {
    "batch": 2,
    "text_tokens": 7,
    "image_tokens": 11,
    "past_slots": 5,
    "cache_slots": 5,
    "masks": 3,
    "batch_size": 2,
    "sequence_length": 7,
    "past_sequence_length": 5,
    "past_sequence_length + sequence_length": 12,
    "images": 3,
}
DECODER_DATA = "decoder.data"
INPUT_TOKEN = TensorSpec("input_ids", "int64", ("batch", 1))
INPUT_TOKENS = TensorSpec("input_ids", "int64", ("batch", "text_tokens"))
PAST_LENGTHS = TensorSpec("past_lengths", "int64", ("batch",))
# For a growing cache, opset 20 is the newest opset that onnxruntime, its web build, the ONNX reference
# evaluator and OpenVINO support completely. It includes Gelu (since 20) and LayerNormalization (since 17). A
# cache that is updated in place needs TensorScatter (since 24).
OPSETS: dict[CacheUpdate, int] = {"grow": 20, "in_place": 24}


@dataclass(frozen=True)
class GraphDefinition:
    """A graph to trace: its inputs and outputs, and the function that computes it."""

    name: str  # before quantisation, definitions of the same name have the same graph
    spec: GraphSpec
    weight_file: str  # prefill and decode have the same weight file
    function: Callable[..., object]  # called with a network and the inputs; returns the outputs
    opset: int
    # The network, on the meta device, if the graph is that of the mask decoder. None: the network is the
    # model.
    mask_decoder: MaskDecoder | None = None

    def module(self, model: PaliGemma) -> nn.Module:
        """Return a module whose forward method is the function, because the tracer needs a module.

        The tracer reads the names of the inputs from the signature of the function.
        """
        module = nn.Module()
        name, network = ("mask_decoder", self.mask_decoder) if self.mask_decoder else ("model", model)
        module.add_module(name, network)
        module.forward = partial(self.function, network)
        return module


def _prefill(
    model: PaliGemma, input_ids: Tensor, image_features: Tensor, text_lengths: Tensor
) -> tuple[Tensor, ...]:
    logits, cache = model.prefill(input_ids, image_features, text_lengths)
    return logits, *(tensor for layer in cache for tensor in layer)


def _decode_step(
    model: PaliGemma, input_ids: Tensor, past_lengths: Tensor, *past: Tensor
) -> tuple[Tensor, ...]:
    cache = tuple(KeyValue(*pair) for pair in zip(past[::2], past[1::2], strict=True))
    logits, cache = model.decode_step(input_ids, past_lengths, cache)
    return logits, *(tensor for layer in cache for tensor in layer)


def graph_definitions(
    config: PaliGemmaConfig, precision: Precision, mask_decoder: MaskDecoder | None = None
) -> dict[str, GraphDefinition]:
    """Return the graphs of a model, by their names in the manifest.

    Args:
        config: configuration of the model.
        precision: determines how the cache is updated. If decode returns a longer cache, prefill and decode
            are two graphs. If decode writes into its input cache, prefill does so too, and prefill and decode
            have the same definition, except in half precision.
        mask_decoder: the mask decoder, which becomes a fourth graph; None if the checkpoint has none.

    Raises:
        CheckpointError: the operators of the precision do not support the model.
    """
    vision, width = config.vision_config, config.text_config.hidden_size
    pixels = TensorSpec("pixel_values", "float32", ("batch", 3, vision.image_size, vision.image_size))
    features = TensorSpec("image_features", "float32", ("batch", vision.num_patches, width))
    if precision.half_dtype is not None:
        decoder = _define_cuda_decoder(config, precision.half_dtype)
    else:
        in_place = precision.cache == "in_place"
        decoder = _define_in_place_decoder(config) if in_place else _define_growing_decoder(config)
    definitions = {
        "vision_encoder": GraphDefinition(
            "vision_encoder",
            GraphSpec("vision_encoder.onnx", (pixels,), (features,)),
            "vision_encoder.data",
            _choose_image_encoder(precision),
            OPSETS[precision.cache],
        ),
        **decoder,
    }
    if mask_decoder is not None:
        definitions["mask_decoder"] = _define_mask_decoder(mask_decoder, OPSETS[precision.cache])
    return definitions


def graph_specs(definitions: dict[str, GraphDefinition]) -> Graphs:
    """Return the inputs and outputs of the graphs as the manifest stores them."""
    return Graphs(**{name: definition.spec for name, definition in definitions.items()})


def example_input(spec: TensorSpec) -> Tensor:
    """Return an example input for tracing: a tensor on the meta device with the shape and dtype of `spec`."""
    shape = [EXAMPLE_SIZES[size] if isinstance(size, str) else size for size in spec.shape]
    return torch.empty(shape, dtype=getattr(torch, spec.dtype), device="meta")


def _choose_image_encoder(precision: Precision) -> Callable[..., object]:
    if precision.half_dtype is not None:
        return cuda_graphs.encode_image
    return PaliGemma.encode_image if precision.portable else cpu_vision.encode_image


def _define_mask_decoder(decoder: MaskDecoder, opset: int) -> GraphDefinition:
    spec = GraphSpec(
        "mask_decoder.onnx",
        (TensorSpec("codes", "int64", ("masks", SEG_TOKENS_PER_MASK)),),
        (TensorSpec("masks", "float32", ("masks", SIDE, SIDE)),),
    )
    without_weights = MaskDecoder(decoder.codebook_width, decoder.channels).to("meta")
    return GraphDefinition(
        "mask_decoder", spec, "mask_decoder.data", MaskDecoder.forward, opset, without_weights
    )


def _define_growing_decoder(config: PaliGemmaConfig) -> dict[str, GraphDefinition]:
    """Define a prefill that creates a cache, and a decode that returns a longer cache.

    Decode takes one or several tokens per row, and returns logits after each of them.
    """
    prefill = GraphSpec(
        "prefill.onnx",
        _prompt_inputs(config),
        (_logits_output(config), *_cache_tensors("present", config, "image_tokens + text_tokens")),
    )
    decode = GraphSpec(
        "decode.onnx",
        (INPUT_TOKENS, PAST_LENGTHS, *_cache_tensors("past_key_values", config, "past_slots")),
        (
            _logits_output(config, "batch * text_tokens"),
            *_cache_tensors("present", config, "past_slots + text_tokens"),
        ),
    )
    return {
        "prefill": GraphDefinition("prefill", prefill, DECODER_DATA, _prefill, OPSETS["grow"]),
        "decode": GraphDefinition("decode", decode, DECODER_DATA, _decode_step, OPSETS["grow"]),
    }


def _define_in_place_decoder(config: PaliGemmaConfig) -> dict[str, GraphDefinition]:
    """Define a prefill and a decode, both of which write into their input cache."""
    text = config.text_config
    shape = ("batch", "cache_slots", text.num_key_value_heads * text.head_dim)
    past, present = (_name_cache(prefix, config, shape) for prefix in ("past_key_values", "present"))
    inputs = (*_prompt_inputs(config), PAST_LENGTHS, *past)
    outputs = (TensorSpec("logits", "float32", ("scored_tokens", text.vocab_size)), *present)
    specs = {name: GraphSpec(f"{name}.onnx", inputs, outputs) for name in ("prefill", "decode")}
    opset = OPSETS["in_place"]
    return {
        name: GraphDefinition("decoder", spec, DECODER_DATA, decode_in_place, opset)
        for name, spec in specs.items()
    }


def _define_cuda_decoder(config: PaliGemmaConfig, dtype: HalfType) -> dict[str, GraphDefinition]:
    """Define two graphs for CUDA: prefill, and a decode with one token per row and no image features."""
    check_head_dim(config.text_config)
    past = _cache_tensors("past_key_values", config, "cache_slots", dtype)
    outputs = (_logits_output(config), *_cache_tensors("present", config, "cache_slots", dtype))
    prefill = GraphSpec("prefill.onnx", (*_prompt_inputs(config), PAST_LENGTHS, *past), outputs)
    decode = GraphSpec("decode.onnx", (INPUT_TOKEN, PAST_LENGTHS, *past), outputs)
    opset = OPSETS["in_place"]
    return {
        "prefill": GraphDefinition("prefill", prefill, DECODER_DATA, cuda_graphs.prefill, opset),
        "decode": GraphDefinition("decode", decode, DECODER_DATA, cuda_graphs.decode_step, opset),
    }


def _prompt_inputs(config: PaliGemmaConfig) -> tuple[TensorSpec, ...]:
    features = ("batch", "image_tokens", config.text_config.hidden_size)
    return (
        INPUT_TOKENS,
        TensorSpec("image_features", "float32", features),
        TensorSpec("text_lengths", "int64", ("batch",)),
    )


def _logits_output(config: PaliGemmaConfig, rows: str = "batch") -> TensorSpec:
    return TensorSpec("logits", "float32", (rows, config.text_config.vocab_size))


def _cache_tensors(
    prefix: str, config: PaliGemmaConfig, slots: str, dtype: Literal["float32"] | HalfType = "float32"
) -> tuple[TensorSpec, ...]:
    text = config.text_config
    return _name_cache(prefix, config, ("batch", text.num_key_value_heads, slots, text.head_dim), dtype)


def _name_cache(
    prefix: str,
    config: PaliGemmaConfig,
    shape: tuple[int | str, ...],
    dtype: Literal["float32"] | HalfType = "float32",
) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(f"{prefix}.{layer}.{kind}", dtype, shape)
        for layer in range(config.text_config.num_hidden_layers)
        for kind in KeyValue._fields
    )
