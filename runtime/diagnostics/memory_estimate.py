"""How much memory a bundle takes on this machine, before it is opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..bundle.dtypes import DTYPES
from ..bundle.schema import Manifest
from ..bundle.tensor_table import TensorTable
from ..engine.nvidia_driver import Gpu, this_driver
from ..graphs.buffer_pool import MIN_SLOTS
from .machine import Machine

ANSWER = 64  # tokens of a prompt and a short answer
BATCHES = (1, 8)  # requests at once that the table is for
LENGTHS = (1024, 4096)  # tokens: images of 448 and of 896 pixels become so many

# Measured with benchmarks/real_size on bundles of 1.8 to 3.8 GB (benchmarks/measured); a test holds the
# estimate against those figures. They are of a processor before VNNI; with it, it is up to a fifth less.
PACKED = 1.22  # memory of a byte in a weight file, once matrices lie in the order of the kernels
REST = 300_000_000  # bytes: Python, the engine, and what it computes with at 224 pixels
# On a GPU: CUDA's own context, its libraries' workspaces and what is computed with. From what NVIDIA and
# PyTorch say of contexts; not measured.
REST_ON_DEVICE = 1_000_000_000  # bytes


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that a process which answers one request has resident at its peak."""

    # mapped: files as they are, shared between processes. prepared: likewise, in the kernels' order.
    # packed: private memory, in the kernels' order. device: on the GPU, as they are in the files.
    weights: Literal["mapped", "prepared", "packed", "device"]
    weights_bytes: int
    cache_bytes: int  # one picture and a short answer
    other_bytes: int
    total_bytes: int
    machine_bytes: int | None  # None: unknown
    free_bytes: int | None
    fits: bool | None  # whether the machine has so much memory; None: unknown
    fits_now: bool | None  # whether so much is free


@dataclass(frozen=True)
class CacheSize:
    """Memory of a key-value cache."""

    tokens: int  # of each row, image tokens included
    batch: int
    bytes: int


def cache_bytes(manifest: Manifest, tokens: int) -> int:
    """Memory of the key-value cache of one request that holds so many tokens."""
    cache = manifest.cache
    return 2 * cache.layers * cache.heads * cache.head_dim * DTYPES[cache.dtype].bytes * tokens


def one_picture(manifest: Manifest) -> int:
    """Tokens of a picture, a prompt and a short answer."""
    return min(manifest.image.tokens + ANSWER, manifest.model.context_length)


def cache_sizes(manifest: Manifest) -> tuple[CacheSize, ...]:
    """For one picture, some round lengths and the full context; alone and in a batch."""
    full = manifest.model.context_length
    lengths = sorted({one_picture(manifest), *(length for length in LENGTHS if length < full), full})
    return tuple(
        CacheSize(tokens, batch, batch * cache_bytes(manifest, tokens))
        for tokens in lengths
        for batch in BATCHES
    )


def estimate_memory(
    manifest: Manifest, tensors: TensorTable, machine: Machine, *, prepared: bool
) -> MemoryEstimate:
    """What a process needs that loads the bundle and answers about one picture.

    Args:
        manifest: the bundle's.
        tensors: the bundle's.
        machine: where it will run.
        prepared: whether `prepare` has written its graphs for this machine.
    """
    if "cpu" not in manifest.precision.devices:
        return _on_device(manifest, tensors, this_driver().gpus)
    size = sum(spec.bytes for spec in manifest.files.values())
    mapped = manifest.precision.is_float32
    weights = size if mapped else int(PACKED * size)
    cache = cache_bytes(manifest, one_picture(manifest))
    if manifest.cache.update == "grow":
        cache *= 2  # a step copies it, and has both
    # Scores of every patch with every patch, and their softmax.
    attention = 2 * manifest.model.vision_heads * manifest.image.tokens**2 * DTYPES["float32"].bytes
    other = REST + attention
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


def _on_device(manifest: Manifest, tensors: TensorTable, gpus: Sequence[Gpu]) -> MemoryEstimate:
    """The same of a GPU's memory, the first one's."""
    files = {
        tensor.file
        for name, stored in tensors.graphs.items()
        if name != "mask_decoder"  # which runs on the CPU
        for tensor in stored
    }
    weights = sum(manifest.files[file].bytes for file in files)
    cache = cache_bytes(manifest, min(max(MIN_SLOTS, one_picture(manifest)), manifest.model.context_length))
    total, there = weights + cache + REST_ON_DEVICE, gpus[0].memory_bytes if gpus else None
    return MemoryEstimate(
        weights="device",
        weights_bytes=weights,
        cache_bytes=cache,
        other_bytes=REST_ON_DEVICE,
        total_bytes=total,
        machine_bytes=there,
        free_bytes=None,
        fits=None if there is None else total <= there,
        fits_now=None,
    )
