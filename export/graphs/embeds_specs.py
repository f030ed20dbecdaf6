"""Definitions of the graphs of embeds_decoder.py, with the names that transformers.js and genai use."""

from __future__ import annotations

from collections.abc import Callable

from paligemma_onnx.model.cache import KeyValue
from paligemma_onnx.model.config import PaliGemmaConfig
from paligemma_onnx.model.paligemma import PaliGemma
from paligemma_onnx.runtime.bundle.schema import GraphSpec, TensorSpec

from .embeds_decoder import decode_embeds, embed_and_merge, embed_tokens, encode_image_rows
from .specs import OPSETS, GraphDefinition

# transformers.js makes the empty cache of the first call from the inputs of the graph: the dimension with
# this name is the number of rows, and every other dimension with a name is 0.
BATCH = "batch_size"
TOKENS, PAST = "sequence_length", "past_sequence_length"
OPSET = OPSETS["grow"]


def separate_embedding(config: PaliGemmaConfig) -> dict[str, GraphDefinition]:
    """Return the graphs of transformers.js, which puts image features among embedded text by itself."""
    width = config.text_config.hidden_size
    features = TensorSpec("image_features", "float32", ("images", config.vision_config.num_patches, width))
    ids, embeds = _text_tensors(width)
    return {
        "vision_encoder": _define("vision_encoder", PaliGemma.encode_image, (_pixels(config),), (features,)),
        "embed_tokens": _define("embed_tokens", embed_tokens, (ids,), (embeds,)),
        "decoder_model_merged": _define("decoder_model_merged", decode_embeds, *_decoder_tensors(config)),
    }


def merged_embedding(config: PaliGemmaConfig) -> dict[str, GraphDefinition]:
    """Return the graphs of onnxruntime-genai, which expects image features merged inside the embedding."""
    width = config.text_config.hidden_size
    features = TensorSpec("image_features", "float32", ("image_tokens", width))
    ids, embeds = _text_tensors(width)
    return {
        "vision": _define("vision", encode_image_rows, (_pixels(config),), (features,)),
        "embedding": _define("embedding", embed_and_merge, (ids, features), (embeds,)),
        "text": _define("text", decode_embeds, *_decoder_tensors(config)),
    }


def _define(
    name: str,
    function: Callable[..., object],
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
) -> GraphDefinition:
    spec = GraphSpec(f"{name}.onnx", inputs, outputs)
    return GraphDefinition(name, spec, f"{name}.onnx_data", function, OPSET)


def _text_tensors(width: int) -> tuple[TensorSpec, TensorSpec]:
    return (
        TensorSpec("input_ids", "int64", (BATCH, TOKENS)),
        TensorSpec("inputs_embeds", "float32", (BATCH, TOKENS, width)),
    )


def _pixels(config: PaliGemmaConfig) -> TensorSpec:
    side = config.vision_config.image_size
    return TensorSpec("pixel_values", "float32", ("images", 3, side, side))


def _decoder_tensors(config: PaliGemmaConfig) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    text = config.text_config
    total = f"{PAST} + {TOKENS}"
    inputs = (
        TensorSpec("inputs_embeds", "float32", (BATCH, TOKENS, text.hidden_size)),
        TensorSpec("attention_mask", "int64", (BATCH, total)),
        TensorSpec("position_ids", "int64", (BATCH, TOKENS)),
        *_cache_tensors("past_key_values", config, PAST),
    )
    logits = TensorSpec("logits", "float32", (BATCH, 1, text.vocab_size))
    return inputs, (logits, *_cache_tensors("present", config, total))


def _cache_tensors(prefix: str, config: PaliGemmaConfig, slots: str) -> tuple[TensorSpec, ...]:
    text = config.text_config
    shape = (BATCH, text.num_key_value_heads, slots, text.head_dim)
    return tuple(
        TensorSpec(f"{prefix}.{layer}.{kind}", "float32", shape)
        for layer in range(text.num_hidden_layers)
        for kind in KeyValue._fields
    )
