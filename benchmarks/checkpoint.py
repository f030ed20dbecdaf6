"""A checkpoint of random numbers in the published layout, written piece by piece: a 3B model needs no memory.

Arithmetic takes as long on random weights as on trained ones. They are drawn as a model is initialised, so
that activations stay finite.
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

from .sizes import Subject
from .vocabulary import build_vocabulary

SPREAD = 0.02  # standard deviation; `initializer_range` of Gemma and SigLIP
BYTES = 2  # of a bfloat16
PIECE = 1 << 22  # values drawn at once, 8 MiB
SHARD = 2 << 30  # bytes of a file, about; published shards have up to 5 GB
INDEX = "model.safetensors.index.json"
# SigLIP's layer norms multiply by their weight, Gemma's RMS norms by 1 + weight.
CENTRED_AT_ONE = ("layer_norm1.weight", "layer_norm2.weight", "post_layernorm.weight")

Shapes = Mapping[str, tuple[int, ...]]
Pieces = Callable[
    [str, tuple[int, ...]], Iterable[Tensor]
]  # name and shape of a tensor -> its values in turn


def make_checkpoint(
    work: Path, subject: Subject, wrote: Callable[[int], object], *, device: str = "cpu"
) -> Path:
    """The folder of the checkpoint, written unless it is there.

    Args:
        work: holds the folder. It gets its name when it is complete.
        subject: the model.
        wrote: told bytes written since the last call.
        device: torch's name of where numbers are drawn; a GPU draws others than a CPU, and faster.
    """
    folder, partly = work / subject.name, work / f"{subject.name}.partly"
    if folder.exists():
        return folder
    shutil.rmtree(partly, ignore_errors=True)
    partly.mkdir(parents=True)
    config = subject.config
    write_json(partly / "config.json", published_config(config))
    adds_bos = config.text_config.model_type == "gemma"
    tokenizer = build_vocabulary(subject.pieces, adds_bos=adds_bos)
    vision = config.vision_config
    write_processor_files(partly, tokenizer, image_size=vision.image_size, patch_size=vision.patch_size)
    shapes = {
        published_name(name): tuple(weight.shape) for name, weight in meta_model(config).named_parameters()
    }
    write_weights(partly, shapes, random_pieces(device), wrote)
    partly.rename(folder)
    return folder


def random_pieces(device: str = "cpu") -> Pieces:
    """Values drawn as a model is initialised, the same at every run on a device."""
    generator = torch.Generator(device).manual_seed(0)

    def pieces(name: str, shape: tuple[int, ...]) -> Iterator[Tensor]:
        mean = 1.0 if name.endswith(CENTRED_AT_ONE) else 0.0
        left = torch.Size(shape).numel()
        while left:
            values = torch.empty(min(left, PIECE), dtype=torch.bfloat16, device=device)
            yield values.normal_(mean, SPREAD, generator=generator).cpu()
            left -= len(values)

    return pieces


def write_weights(folder: Path, shapes: Shapes, pieces: Pieces, wrote: Callable[[int], object]) -> None:
    """The shards and the index that says which tensor is where.

    Args:
        folder: where they go; it exists.
        shapes: of each tensor, by name.
        pieces: give a tensor's values, bfloat16, no more at once than memory should hold.
        wrote: told bytes written since the last call.
    """
    shards = list(_shards(shapes))
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = folder / f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_shard(file, shard, pieces, wrote)
        weight_map |= dict.fromkeys(shard, file.name)
    size = sum(_bytes(shape) for shape in shapes.values())
    write_json(folder / INDEX, {"metadata": {"total_size": size}, "weight_map": weight_map})


def _shards(shapes: Shapes) -> Iterator[Shapes]:
    """Tensors in their order, a file full of them at a time."""
    shard: dict[str, tuple[int, ...]] = {}
    size = 0
    for name, shape in shapes.items():
        if shard and size + _bytes(shape) > SHARD:
            yield shard
            shard, size = {}, 0
        shard[name] = shape
        size += _bytes(shape)
    yield shard


def _write_shard(file: Path, shapes: Shapes, pieces: Pieces, wrote: Callable[[int], object]) -> None:
    """One safetensors file: length of the header, header, tensors (huggingface.co/docs/safetensors)."""
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
            for values in pieces(name, shape):
                wrote(out.write(values.view(torch.uint8).numpy().data))


def _bytes(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel() * BYTES


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """One file of a checkpoint's settings."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
