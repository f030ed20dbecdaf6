"""Write a checkpoint of random weights in the layout of the published checkpoints.

The weights are written in chunks, so memory use does not depend on the size of the model. Arithmetic takes as
long with random weights as with trained weights. The weights have the distribution with which a model is
initialised before training, so that activations stay finite.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from paligemma_onnx.model.skeleton import meta_model
from training.published_layout import published_config, published_name, write_processor_files

from .sizes import BenchmarkModel
from .vocabulary import build_vocabulary

SPREAD = 0.02  # standard deviation: `initializer_range` of Gemma and SigLIP
BFLOAT16_BYTES = 2
CHUNK = 1 << 22  # values per chunk, 8 MiB in bfloat16
SHARD_BYTES = 2 << 30  # maximum size of a file, unless one tensor is larger; published shards have up to 5 GB
INDEX = "model.safetensors.index.json"
# SigLIP's layer norms multiply by their weight, Gemma's RMS norms by 1 + weight.
CENTRED_AT_ONE = ("layer_norm1.weight", "layer_norm2.weight", "post_layernorm.weight")

Shapes = Mapping[str, tuple[int, ...]]  # shapes of tensors, by name
# Function that takes the name and the shape of a tensor, and returns its values in order, in bfloat16 chunks.
Chunks = Callable[[str, tuple[int, ...]], Iterable[Tensor]]


def make_checkpoint(work: Path, model: BenchmarkModel, *, device: str = "cpu") -> Path:
    """Write a random checkpoint unless it exists, and return its folder.

    Args:
        work: parent of the checkpoint's folder. The folder gets its final name when it is complete.
        model: sizes and name of the model.
        device: torch's name of the device that draws the random values. A GPU is faster and draws different
            values. If torch has no CUDA, the CPU draws the values.
    """
    folder, partial = work / model.name, work / f"{model.name}.partial"
    if folder.exists():
        return folder
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    config = model.config
    write_json(partial / "config.json", published_config(config))
    adds_bos = config.text_config.model_type == "gemma"
    tokenizer = build_vocabulary(model.pieces, adds_bos=adds_bos)
    vision = config.vision_config
    write_processor_files(partial, tokenizer, image_size=vision.image_size, patch_size=vision.patch_size)
    shapes = {
        published_name(name): tuple(weight.shape) for name, weight in meta_model(config).named_parameters()
    }
    drawing = device if torch.cuda.is_available() else "cpu"
    write_weights(partial, shapes, random_chunks(drawing))
    partial.rename(folder)
    return folder


def random_chunks(device: str = "cpu") -> Chunks:
    """Return a function that draws the values of a tensor; they are the same in every run on a device."""
    generator = torch.Generator(device).manual_seed(0)

    def chunks(name: str, shape: tuple[int, ...]) -> Iterator[Tensor]:
        mean = 1.0 if name.endswith(CENTRED_AT_ONE) else 0.0
        remaining = torch.Size(shape).numel()
        while remaining:
            values = torch.empty(min(remaining, CHUNK), dtype=torch.bfloat16, device=device)
            yield values.normal_(mean, SPREAD, generator=generator).cpu()
            remaining -= len(values)

    return chunks


def write_weights(folder: Path, shapes: Shapes, chunks: Chunks) -> None:
    """Write safetensors files, and an index that names the file of each tensor.

    Args:
        folder: an existing folder.
        shapes: shape of each tensor, by name.
        chunks: returns the values of a tensor in bfloat16 chunks that fit into memory.
    """
    shards = list(_shards(shapes))
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = folder / f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_shard(file, shard, chunks)
        weight_map |= dict.fromkeys(shard, file.name)
    size = sum(_bytes(shape) for shape in shapes.values())
    write_json(folder / INDEX, {"metadata": {"total_size": size}, "weight_map": weight_map})


def _shards(shapes: Shapes) -> Iterator[Shapes]:
    """Split the tensors, in their order, into files of at most SHARD_BYTES; yield the shapes in each file."""
    shard: dict[str, tuple[int, ...]] = {}
    size = 0
    for name, shape in shapes.items():
        if shard and size + _bytes(shape) > SHARD_BYTES:
            yield shard
            shard, size = {}, 0
        shard[name] = shape
        size += _bytes(shape)
    yield shard


def _write_shard(file: Path, shapes: Shapes, chunks: Chunks) -> None:
    """Write a safetensors file: length of the header, header, tensors (huggingface.co/docs/safetensors)."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        end = offset + _bytes(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of 8
    with file.open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            for values in chunks(name, shape):
                out.write(values.view(torch.uint8).numpy().data)


def _bytes(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel() * BFLOAT16_BYTES


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Write a value to a JSON file of a checkpoint."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
