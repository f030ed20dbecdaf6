"""Check that a manifest has no contradictions and declares the inputs that the runtime feeds to graphs.

Shapes: docs/notation.md.
"""

from __future__ import annotations

import math
from pathlib import PurePosixPath, PureWindowsPath

from .schema import SEG_TOKENS_PER_MASK, TENSOR_TABLE, Manifest, TensorSpec

# Sizes, token ids and positions are 32-bit numbers in kernels.
MAX_SIZE = (1 << 31) - 1
# Bounds for the numbers of the preprocessing, which is computed in float32. SigLIP's are 1/255 and 0.5.
MIN_FACTOR, MAX_FACTOR = 1e-9, 1e9

Shape = tuple[int | None, ...]  # a dimension that varies is None


def check_manifest(manifest: Manifest) -> None:
    """Check a manifest.

    Raises:
        ValueError: the manifest has a contradiction; the message names the first contradiction in one line.
    """
    _check_files(manifest)
    _check_numbers(manifest)
    _check_tokens(manifest)
    _check_graphs(manifest)
    _check_operators(manifest)


def _check_files(manifest: Manifest) -> None:
    used = (*(graph.file for graph in manifest.graphs.all), manifest.tokens.file, TENSOR_TABLE)
    for name in (*manifest.files, *used):
        plain = PurePosixPath(name).name == name == PureWindowsPath(name).name
        if not plain or name in ("", "..") or not name.isprintable():
            raise ValueError(f"{name!a} is not a plain file name; files of a bundle lie in its folder")
    for name in used:
        if name not in manifest.files:
            raise ValueError(f"{name!a} is used but not listed under files")


def _check_numbers(manifest: Manifest) -> None:
    model, image, cache = manifest.model, manifest.image, manifest.cache
    wide_batch = manifest.precision.wide_batch
    at_least_1 = {
        "model.parameters": model.parameters,
        "model.hidden_size": model.hidden_size,
        "model.vocab_size": model.vocab_size,
        "model.context_length": model.context_length,
        "model.vision_heads": model.vision_heads,
        "image.size": image.size,
        "image.tokens": image.tokens,
        "cache.layers": cache.layers,
        "cache.heads": cache.heads,
        "cache.head_dim": cache.head_dim,
        "generation.max_new_tokens": manifest.generation.max_new_tokens,
        "precision.wide_batch": 1 if wide_batch is None else wide_batch,
    }
    for field, value in at_least_1.items():
        most = (1 << 63) - 1 if field == "model.parameters" else MAX_SIZE
        if value < 1:
            raise ValueError(f"{field} is {value}, expected at least 1")
        if value > most:
            raise ValueError(f"{field} is {value}, expected at most {most}")
    if manifest.generation.max_new_tokens > model.context_length:
        raise ValueError("generation.max_new_tokens is over model.context_length")
    generation = manifest.generation
    if not (0 <= generation.temperature < math.inf and generation.top_k >= 0 and 0 < generation.top_p <= 1):
        raise ValueError("generation.temperature, top_k or top_p is out of its range")
    if not 0 < generation.repetition_penalty < math.inf:
        raise ValueError("generation.repetition_penalty is not a number above 0")
    if not all(abs(value) <= MAX_FACTOR for value in image.mean):
        raise ValueError(f"image.mean is not finite or over {MAX_FACTOR:g}")
    if not all(MIN_FACTOR <= value <= MAX_FACTOR for value in (image.rescale_factor, *image.std)):
        raise ValueError(
            "image.rescale_factor or image.std is not a number above 0, from "
            f"{MIN_FACTOR:g} to {MAX_FACTOR:g}"
        )


def _check_tokens(manifest: Manifest) -> None:
    tokens, vocab_size = manifest.tokens, manifest.model.vocab_size
    if not tokens.stop:
        raise ValueError("tokens.stop is empty, so no answer would end")
    suppressed = (*tokens.suppressed, *manifest.generation.suppress_tokens)
    # The id of `<image>` is that of the checkpoint. It is never looked up, so it may lie outside.
    if tokens.image < 0:
        raise ValueError(f"token id {tokens.image} is below 0")
    for token in (tokens.bos, tokens.pad, *tokens.stop, *suppressed):
        if not 0 <= token < vocab_size:
            raise ValueError(f"token id {token} is outside the vocabulary of {vocab_size}")


def _check_graphs(manifest: Manifest) -> None:
    model, image, cache, graphs = manifest.model, manifest.image, manifest.cache, manifest.graphs
    if cache.layers > len(graphs.decode.outputs):
        raise ValueError(f"cache.layers is {cache.layers}, the decode graph has fewer outputs")

    def cache_shapes(prefix: str) -> dict[str, Shape]:
        return {
            f"{prefix}.{layer}.{kind}": cache.shape(None, None)
            for layer in range(cache.layers)
            for kind in ("key", "value")
        }

    features, logits = (None, image.tokens, model.hidden_size), (None, model.vocab_size)
    _check_tensors(
        "vision_encoder", graphs.vision_encoder.inputs, {"pixel_values": (None, 3, image.size, image.size)}
    )
    _check_tensors("vision_encoder", graphs.vision_encoder.outputs, {"image_features": features})
    prefill: dict[str, Shape] = {
        "input_ids": (None, None),
        "image_features": (None, None, model.hidden_size),
        "text_lengths": (None,),
    }
    past: dict[str, Shape] = {"past_lengths": (None,), **cache_shapes("past_key_values")}
    decode: dict[str, Shape] = {"input_ids": (None, None if manifest.takes_chunks else 1), **past}
    if cache.update == "in_place":
        prefill |= past
        if "image_features" in {spec.name for spec in graphs.decode.inputs}:
            decode = prefill  # prefill and decode have the same inputs
    elif manifest.precision.wide_batch is not None:
        raise ValueError("precision.wide_batch needs a cache that is updated in place")
    _check_tensors("prefill", graphs.prefill.inputs, prefill)
    _check_tensors("prefill", graphs.prefill.outputs, {"logits": logits, **cache_shapes("present")})
    _check_tensors("decode", graphs.decode.inputs, decode)
    _check_tensors("decode", graphs.decode.outputs, {"logits": logits, **cache_shapes("present")})
    if (masks := graphs.mask_decoder) is not None:
        _check_tensors("mask_decoder", masks.inputs, {"codes": (None, SEG_TOKENS_PER_MASK)})
        sides = (size for spec in masks.outputs for size in spec.shape[-1:] if isinstance(size, int))
        side = max(1, next(sides, 1))
        _check_tensors("mask_decoder", masks.outputs, {"masks": (None, side, side)})

    if not manifest.precision.devices:
        raise ValueError("precision.devices is empty, so the bundle cannot run")
    for spec in (
        *graphs.prefill.inputs,
        *graphs.decode.inputs,
        *graphs.prefill.outputs,
        *graphs.decode.outputs,
    ):
        if spec.name.startswith(("past_key_values.", "present.")) and spec.dtype != cache.dtype:
            raise ValueError(f"{spec.name} is {spec.dtype}, cache.dtype says {cache.dtype}")


def _check_tensors(graph: str, specs: tuple[TensorSpec, ...], expected: dict[str, Shape]) -> None:
    """Raise ValueError if names, order or fixed dimensions of a graph's tensors are not as expected."""
    actual = {
        spec.name: tuple(size if isinstance(size, int) else None for size in spec.shape) for spec in specs
    }
    if list(actual) != list(expected):
        different = sorted(actual.keys() ^ expected.keys()) or list(actual)
        raise ValueError(f"graphs.{graph} has other inputs or outputs than the driver uses: {different[0]!a}")
    for name, shape in expected.items():
        if actual[name] != shape:
            raise ValueError(
                f"graphs.{graph}: the shape of {name} does not follow from model, image and cache"
            )


def _check_operators(manifest: Manifest) -> None:
    for name, graph in manifest.graphs.by_name.items():
        for operator, count in graph.operators.items():
            if not operator.isprintable() or count < 1:
                raise ValueError(f"graphs.{name}.operators counts {count} of {operator!a}")
