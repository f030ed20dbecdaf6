"""What is in a bundle, in figures a person can use."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from .manifest import Manifest

MIB = 1 << 20  # bytes
FLOAT32 = 4  # bytes


def cache_bytes(manifest: Manifest, tokens: int) -> int:
    """Memory of the key-value cache of one request that holds so many tokens."""
    cache = manifest.cache
    return 2 * cache.layers * cache.heads * cache.head_dim * FLOAT32 * tokens


def facts(manifest: Manifest) -> dict[str, Any]:
    """The manifest without its tensor lists, and what follows from it."""
    full = asdict(manifest)
    graphs = {
        name: {"file": graph["file"], "inputs": len(graph["inputs"]), "outputs": len(graph["outputs"])}
        for name, graph in full.pop("graphs").items()
    }
    return {
        **full,
        "graphs": graphs,
        "total_bytes": sum(spec.bytes for spec in manifest.files.values()),
        "cache_bytes_per_token": cache_bytes(manifest, 1),
        "cache_bytes_full_context": cache_bytes(manifest, manifest.model.context_length),
    }


def table(manifest: Manifest) -> str:
    """The same for a person."""
    model, image, cache = manifest.model, manifest.image, manifest.cache
    total = sum(spec.bytes for spec in manifest.files.values())
    one_image = image.tokens + 64  # with a prompt and a short answer
    lines = [
        f"bundle      {manifest.bundle_id}, schema {manifest.schema_version}",
        f"model       {model.family}, {model.parameters:,} parameters, width {model.hidden_size}, "
        f"{model.vocab_size:,} words, context {model.context_length} tokens",
        f"image       {image.size} x {image.size} pixels become {image.tokens} tokens",
        f"precision   {manifest.recipe.precision}, ONNX opset {manifest.recipe.opset}",
        *(f"            {graph} {form}" for graph, form in vars(manifest.recipe.matrices).items()),
        f"cache       {cache.layers} layers x {cache.heads} heads x {cache.head_dim}: "
        f"{cache_bytes(manifest, 1) / 1024:.0f} KiB a token, "
        f"{cache_bytes(manifest, one_image) / MIB:.1f} MiB for one image and a short answer",
        f"made by     paligemma-onnx {manifest.producer.paligemma_onnx}, torch {manifest.producer.torch}, "
        f"onnx {manifest.producer.onnx}",
        "",
        *(f"{spec.bytes:>16,}  {name}" for name, spec in sorted(manifest.files.items())),
        f"{total:>16,}  bytes in all",
    ]
    return "\n".join(lines)
