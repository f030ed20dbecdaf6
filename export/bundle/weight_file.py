"""Weights on their way from the checkpoint to the bundle, one piece of one tensor at a time.

A file is planned first: which tensor lies where. Then each tensor is read from the memory-mapped
checkpoint, encoded and written piece by piece, so the size of the model does not matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
from torch import Tensor

from paligemma_onnx.model.checkpoint.errors import CheckpointError
from paligemma_onnx.runtime.bundle.schema import FileSpec

from ..quantization.encodings import encode
from ..quantization.quantize_graph import QuantizedGraph, StoredTensor, TensorRef
from ..sources.tensor_source import TensorSource

PAGE = 4096  # bytes; an array that starts on a page can be mapped as it is
LINE = 64  # bytes; a cache line, enough for arrays smaller than a page


@dataclass(frozen=True)
class Placed:
    """A tensor and the places of its arrays in a weight file."""

    stored: StoredTensor
    offsets: tuple[int, ...]  # bytes, one an array


@dataclass(frozen=True)
class WeightFile:
    """The plan of one file."""

    file: str
    tensors: tuple[Placed, ...]

    @property
    def length(self) -> int:
        """Size of the file in bytes."""
        last = self.tensors[-1]
        return last.offsets[-1] + last.stored.layouts[-1].length


def plan_file(file: str, graphs: list[QuantizedGraph]) -> WeightFile:
    """Lay out every tensor that the graphs read, each once, in the order of its first use."""
    wanted = dict.fromkeys(reference.stored for laid in graphs for reference in laid.references.values())
    names = [(stored.name, stored.format) for stored in wanted]
    if len(set(names)) < len(names):
        twice = next(name for name, form in names if names.count((name, form)) > 1)
        raise RuntimeError(f"{twice}: two graphs that share a file want it stored differently")
    placed, end = [], 0
    for stored in wanted:
        offsets = []
        for layout in stored.layouts:
            alignment = PAGE if layout.length >= PAGE else LINE
            offsets.append(-(-end // alignment) * alignment)
            end = offsets[-1] + layout.length
        placed.append(Placed(stored, tuple(offsets)))
    return WeightFile(file, tuple(placed))


def refer(laid: QuantizedGraph, plan: WeightFile) -> None:
    """Point the graph's initialisers to their places in the file."""
    places = {placed.stored: placed for placed in plan.tensors}
    for name, value in laid.model.graph.initializers.items():
        reference = laid.references.get(name)
        if reference is not None:
            value.const_value = _external(name, reference, places[reference.stored], plan.file)


def _external(name: str, reference: TensorRef, placed: Placed, file: str) -> ir.ExternalTensor:
    layout, shape = reference.stored.layouts[reference.array], ir.Shape(reference.shape)
    offset = placed.offsets[reference.array]
    return ir.ExternalTensor(file, offset, layout.length, layout.dtype, shape=shape, name=name)


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

    Raises:
        CheckpointError: a number is too large for the form it gets.
    """
    digest, position = hashlib.sha256(), 0
    with (folder / plan.file).open("wb") as file:

        def put(content: memoryview) -> None:
            nonlocal position
            file.write(content)
            digest.update(content)
            progress(len(content))
            position += len(content)

        for placed in plan.tensors:
            stored = placed.stored
            begun = -1
            pieces = encode(read(stored, source, constants), stored.format, transposed=stored.transposed)
            try:
                for array, piece in pieces:
                    if array != begun:
                        put(memoryview(bytes(placed.offsets[array] - position)))
                        begun = array
                    put(piece)
            except CheckpointError as error:
                raise CheckpointError(f"{stored.name}: {error}") from None
    return FileSpec(position, digest.hexdigest())


def read(stored: StoredTensor, source: TensorSource, constants: Mapping[str, Tensor]) -> Tensor:
    """The tensor to be stored, held against the shape that was planned."""
    tensor = lookup(stored.name, source, constants)
    if tuple(tensor.shape) != stored.shape:
        raise RuntimeError(f"{stored.name}: planned as {stored.shape}, found {tuple(tensor.shape)}")
    return tensor


def lookup(name: str, source: TensorSource, constants: Mapping[str, Tensor]) -> Tensor:
    """A tensor by name: a constant, or else a weight."""
    constant = constants.get(name)
    return source.tensor(name) if constant is None else constant
