"""Estimate the memory that a bundle needs on this machine, without opening the bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..bundle.dtypes import DTYPES
from ..bundle.schema import Manifest
from ..bundle.tensor_table import TensorTable, packed_bytes
from ..engine.nvidia_driver import Gpu, query_driver
from ..graphs.buffer_pool import MIN_SLOTS
from .machine import Machine

TEXT_TOKENS = 64  # tokens of a prompt and a short answer together
BATCHES = (1, 8)  # batch sizes of the table of KV cache sizes
LENGTHS = (1024, 4096)  # tokens of an image of 448 and of 896 pixels

TILED_ATTENTION = "com.microsoft.MultiHeadAttention"  # holds only the scores of a few patches at a time

# Measured with benchmarks/real_size on bundles of 1.8 to 3.8 GB (benchmarks/measured); a test compares the
# estimate with these measurements. The measurements are from a processor without VNNI. A processor with VNNI
# needs up to a fifth less memory.
PACKED_FACTOR = 1.22  # bytes of memory per byte in a weight file, after the kernels repack the matrices
OTHER_BYTES = 300_000_000  # Python, onnxruntime, and its activations at 224 pixels
# CUDA context, workspaces of its libraries, and activations. From the context sizes that NVIDIA and PyTorch
# document; not measured.
OTHER_BYTES_CUDA = 1_000_000_000


@dataclass(frozen=True)
class MemoryEstimate:
    """Peak resident memory, in bytes, of a process that answers one request."""

    # mapped: the weight files are mapped and shared between processes. prepared: the files of the prepared
    # graphs are mapped and shared. packed: the process repacks the weights for the kernels in private memory.
    # device: the weights are in GPU memory, as in the weight files.
    weights: Literal["mapped", "prepared", "packed", "device"]
    weights_bytes: int
    cache_bytes: int  # for one image and a short answer
    other_bytes: int
    total_bytes: int
    machine_bytes: int | None  # memory of the machine or GPU; None: unknown
    free_bytes: int | None  # None: unknown
    fits: bool | None  # whether the machine has enough memory; None: unknown
    fits_now: bool | None  # whether enough memory is free; None: unknown


@dataclass(frozen=True)
class CacheSize:
    """Memory of a KV cache."""

    tokens: int  # per row, image tokens included
    batch: int
    bytes: int


def cache_bytes(manifest: Manifest, tokens: int) -> int:
    """Return the size in bytes of the KV cache of one row with `tokens` tokens."""
    cache = manifest.cache
    return 2 * cache.layers * cache.heads * cache.head_dim * DTYPES[cache.dtype].bytes * tokens


def short_request_tokens(manifest: Manifest) -> int:
    """Return the total number of tokens of one image, a prompt and a short answer."""
    return min(manifest.image.tokens + TEXT_TOKENS, manifest.model.context_length)


def cache_sizes(manifest: Manifest) -> tuple[CacheSize, ...]:
    """Return the cache sizes of each batch size for a short request, for LENGTHS and for the full context."""
    full = manifest.model.context_length
    lengths = sorted({short_request_tokens(manifest), *(length for length in LENGTHS if length < full), full})
    return tuple(
        CacheSize(tokens, batch, batch * cache_bytes(manifest, tokens))
        for tokens in lengths
        for batch in BATCHES
    )


def estimate_memory(
    manifest: Manifest, tensors: TensorTable, machine: Machine, *, prepared: bool
) -> MemoryEstimate:
    """Estimate the memory of a process that loads the bundle and answers about one image.

    Args:
        manifest: the bundle's manifest.
        tensors: the bundle's tensor table.
        machine: the machine on which the process will run.
        prepared: whether prepared graphs for this machine exist.
    """
    if "cpu" not in manifest.precision.devices:
        return _estimate_gpu_memory(manifest, tensors, query_driver().gpus)
    mapped = manifest.precision.is_float32
    if mapped:
        weights = sum(spec.bytes for spec in manifest.files.values())
    else:
        weights = int(PACKED_FACTOR * packed_bytes(manifest, tensors))
    cache = cache_bytes(manifest, short_request_tokens(manifest))
    if manifest.cache.update == "grow":
        cache *= 2  # a step copies the cache, so the old and the new cache exist together
    other = OTHER_BYTES + _attention_bytes(manifest)
    total = weights + cache + other
    return MemoryEstimate(
        weights="mapped" if mapped else "prepared" if prepared else "packed",
        weights_bytes=weights,
        cache_bytes=cache,
        other_bytes=other,
        total_bytes=total,
        machine_bytes=machine.memory_bytes,
        free_bytes=machine.free_bytes,
        fits=None if machine.memory_bytes is None else total <= machine.memory_bytes,
        fits_now=None if machine.free_bytes is None else total <= machine.free_bytes,
    )


def _attention_bytes(manifest: Manifest) -> int:
    """Return the bytes of the attention scores of one image that the process holds at once."""
    scores = manifest.model.vision_heads * manifest.image.tokens**2 * DTYPES["float32"].bytes
    if TILED_ATTENTION in manifest.graphs.vision_encoder.operators:
        return scores  # those of prefill: the decoders of 3B and 10B models have at most as many heads
    return 2 * scores  # scores of every patch with every patch in all heads, and their softmax


def _estimate_gpu_memory(manifest: Manifest, tensors: TensorTable, gpus: Sequence[Gpu]) -> MemoryEstimate:
    """Estimate the GPU memory that a bundle needs, and compare the estimate with the first GPU's memory."""
    files = {
        tensor.file
        for name, stored in tensors.graphs.items()
        if name != "mask_decoder"  # the mask decoder runs on the CPU
        for tensor in stored
    }
    weights = sum(manifest.files[file].bytes for file in files)
    slots = min(max(MIN_SLOTS, short_request_tokens(manifest)), manifest.model.context_length)
    cache = cache_bytes(manifest, slots)
    total, available = weights + cache + OTHER_BYTES_CUDA, gpus[0].memory_bytes if gpus else None
    return MemoryEstimate(
        weights="device",
        weights_bytes=weights,
        cache_bytes=cache,
        other_bytes=OTHER_BYTES_CUDA,
        total_bytes=total,
        machine_bytes=available,
        free_bytes=None,
        fits=None if available is None else total <= available,
        fits_now=None,
    )
