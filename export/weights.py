"""Weights on their way from the checkpoint to the bundle, one piece of one tensor at a time.

A file is planned first: which tensor lies where. Then each tensor is read from the memory-mapped
checkpoint, widened, turned if the graph wants it turned, and written; no more than one piece is ever in
memory, so the size of the model does not matter.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Protocol

import onnx_ir as ir
import torch
from torch import Tensor

from paligemma_onnx.runtime.manifest import FileSpec

from .trace import Traced

PAGE = 4096  # bytes; a tensor that starts on a page can be mapped as it is
LINE = 64  # bytes; a cache line, enough for tensors smaller than a page
PIECE = 64 << 20  # bytes written at once
FLOAT32 = 4  # bytes


class TensorSource(Protocol):
    """Where weights come from: a checkpoint."""

    def tensor(self, name: str) -> Tensor:
        """One tensor in the dtype it is stored in."""


@dataclass(frozen=True)
class Placed:
    """A tensor and its place in a weight file."""

    name: str
    shape: tuple[int, ...]  # as stored in the bundle
    transposed: bool
    offset: int  # bytes
    length: int  # bytes


@dataclass(frozen=True)
class WeightFile:
    """The plan of one file of float32 tensors."""

    file: str
    tensors: tuple[Placed, ...]

    @property
    def length(self) -> int:
        """Size of the file in bytes."""
        last = self.tensors[-1]
        return last.offset + last.length


def plan_file(file: str, graphs: list[Traced]) -> WeightFile:
    """Lay out every weight that the graphs use, each once, in the order of its name's first use."""
    shapes: dict[str, tuple[int, ...]] = {}
    turned: dict[str, bool] = {}
    for traced in graphs:
        for name, value in traced.model.graph.initializers.items():
            if value.const_value is not None:
                continue  # a constant of the graph itself
            shape = value.shape.numpy() if value.shape is not None else ()
            transposed = name in traced.transposed
            if shapes.setdefault(name, shape) != shape or turned.setdefault(name, transposed) != transposed:
                raise RuntimeError(f"{name}: two graphs that share a file want it stored differently")
    placed, offset = [], 0
    for name, shape in shapes.items():
        length = math.prod(shape) * FLOAT32
        alignment = PAGE if length >= PAGE else LINE
        offset = -(-offset // alignment) * alignment
        placed.append(Placed(name, shape, turned[name], offset, length))
        offset += length
    return WeightFile(file, tuple(placed))


def refer(traced: Traced, plan: WeightFile) -> None:
    """Point the graph's initialisers to their places in the file."""
    places = {placed.name: placed for placed in plan.tensors}
    for name, value in traced.model.graph.initializers.items():
        if value.const_value is None:
            placed = places[name]
            value.const_value = ir.ExternalTensor(
                plan.file,
                placed.offset,
                placed.length,
                ir.DataType.FLOAT,
                shape=ir.Shape(placed.shape),
                name=name,
            )


def write_file(
    plan: WeightFile,
    folder: Path,
    source: TensorSource,
    constants: Mapping[str, Tensor],
    progress: Callable[[int], object],
) -> FileSpec:
    """Write a weight file.

    Args:
        plan: what lies where.
        folder: where the file goes.
        source: the checkpoint.
        constants: tensors that are no weights, such as rotary frequencies.
        progress: told the bytes just written.

    Returns:
        Size and SHA-256, computed while writing.
    """
    digest, position = hashlib.sha256(), 0
    with (folder / plan.file).open("wb") as file:
        for placed in plan.tensors:
            tensor = constants.get(placed.name)
            if tensor is None:
                tensor = source.tensor(placed.name)
            padding = memoryview(bytes(placed.offset - position))
            for piece in chain([padding], pieces(tensor, placed)):
                file.write(piece)
                digest.update(piece)
                progress(len(piece))
            position = placed.offset + placed.length
    return FileSpec(position, digest.hexdigest())


def pieces(tensor: Tensor, placed: Placed) -> Iterator[memoryview[int]]:
    """The bytes of a tensor as the bundle stores it, float32, at most PIECE bytes at a time."""
    view = tensor.t() if placed.transposed else tensor
    if tuple(view.shape) != placed.shape:
        raise RuntimeError(f"{placed.name}: planned as {placed.shape}, found {tuple(view.shape)}")
    row = math.prod(view.shape[1:]) * FLOAT32
    for block in view.split(max(1, PIECE // row)):
        yield memoryview(block.to(torch.float32).contiguous().numpy()).cast("B")
