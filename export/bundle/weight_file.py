"""Weight files: assign a position to every tensor, then write the tensors one after the other.

A tensor is read from the memory-mapped checkpoint, encoded and written in pieces, so memory use does not
depend on the size of the model.
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

from ..quantization.encodings import encode, parse_piece_name
from ..quantization.quantize_graph import QuantizedGraph, StoredTensor
from ..sources.tensor_source import TensorSource

PAGE_BYTES = 4096  # an array that starts at a page boundary can be memory-mapped without a copy
CACHE_LINE_BYTES = 64  # alignment of arrays that are smaller than a page


@dataclass(frozen=True)
class WeightFile:
    """Plan of a weight file: the tensors and their positions."""

    file: str  # name of the file
    # Positions of the arrays of each tensor, in bytes from the start of the file. The tensors have the order
    # in which they are written.
    offsets: dict[StoredTensor, tuple[int, ...]]

    @property
    def length(self) -> int:
        """Size of the file in bytes."""
        stored, offsets = next(reversed(self.offsets.items()))
        return offsets[-1] + stored.layouts[-1].length


def name_numbered(file: str, count: int) -> str:
    """Return the name of the file that follows `count` files: decoder-2.data after decoder.data."""
    stem, _, suffix = file.rpartition(".")
    return f"{stem}-{count + 1}.{suffix}"


def plan_weight_files(
    file: str,
    graphs: list[QuantizedGraph],
    max_bytes: int | None = None,
    name_next: Callable[[str, int], str] = name_numbered,
) -> list[WeightFile]:
    """Return the plans of weight files: the tensors of the graphs, each once, in the order of first use.

    Args:
        file: name of the first file.
        graphs: the graphs that read the files.
        max_bytes: a tensor that would make a file longer starts the next file; None: there is one file.
        name_next: returns the name of a file, given the name and the number of the files before it.
    """
    needed = dict.fromkeys(reference.stored for graph in graphs for reference in graph.references.values())
    keys = [(stored.name, stored.format) for stored in needed]
    if len(set(keys)) < len(keys):
        name = next(name for name, format in keys if keys.count((name, format)) > 1)
        raise RuntimeError(f"{name}: two graphs that share a file need different layouts of this tensor")
    plans, end = [WeightFile(file, {})], 0
    for stored in needed:
        offsets, new_end = _place(stored, end)
        if max_bytes is not None and new_end > max_bytes and end > 0:
            plans.append(WeightFile(name_next(file, len(plans)), {}))
            offsets, new_end = _place(stored, 0)
        plans[-1].offsets[stored] = offsets
        end = new_end
    return plans


def _place(stored: StoredTensor, end: int) -> tuple[tuple[int, ...], int]:
    """Return the positions of a tensor's arrays in a file that ends at `end`, and the new end of the file."""
    offsets = []
    for layout in stored.layouts:
        alignment = PAGE_BYTES if layout.length >= PAGE_BYTES else CACHE_LINE_BYTES
        offsets.append(-(-end // alignment) * alignment)
        end = offsets[-1] + layout.length
    return tuple(offsets), end


def reference_weight_file(graph: QuantizedGraph, plan: WeightFile) -> None:
    """Make the initializers of a graph refer to the positions of their arrays in the file."""
    for name, value in graph.model.graph.initializers.items():
        reference = graph.references.get(name)
        if reference is not None and reference.stored in plan.offsets:
            layout, shape = reference.stored.layouts[reference.array], ir.Shape(reference.shape)
            offset = plan.offsets[reference.stored][reference.array]
            value.const_value = ir.ExternalTensor(
                plan.file, offset, layout.length, layout.ir_dtype, shape=shape, name=name
            )


def write_weight_file(
    plan: WeightFile,
    folder: Path,
    source: TensorSource,
    constants: Mapping[str, Tensor],
    progress: Callable[[int], object],
) -> FileSpec:
    """Write a weight file and return its size and digest.

    Args:
        plan: positions of the tensors.
        folder: folder of the file.
        source: provides the weights.
        constants: tensors that are not weights, such as rotary frequencies.
        progress: receives the number of bytes of each write.

    Returns:
        Size and SHA-256, computed while writing.

    Raises:
        CheckpointError: a weight exceeds the range of its format.
    """
    digest, position = hashlib.sha256(), 0
    with (folder / plan.file).open("wb") as file:

        def write(content: memoryview) -> None:
            nonlocal position
            file.write(content)
            digest.update(content)
            progress(len(content))
            position += len(content)

        for stored, offsets in plan.offsets.items():
            tensor = read_tensor(stored, source, constants)
            current_array = None
            try:
                for array, piece in encode(tensor, stored.format, transposed=stored.transposed):
                    if array != current_array:
                        write(memoryview(bytes(offsets[array] - position)))  # padding
                        current_array = array
                    write(piece)
            except CheckpointError as error:
                raise CheckpointError(f"{stored.name}: {error}") from None
    return FileSpec(position, digest.hexdigest())


def read_tensor(stored: StoredTensor, source: TensorSource, constants: Mapping[str, Tensor]) -> Tensor:
    """Return the tensor to store; raise RuntimeError if the tensor does not have the planned shape."""
    tensor = find_tensor(stored.name, source, constants)
    if tuple(tensor.shape) != stored.shape:
        raise RuntimeError(f"{stored.name}: planned as {stored.shape}, but is {tuple(tensor.shape)}")
    return tensor


def find_tensor(name: str, source: TensorSource, constants: Mapping[str, Tensor]) -> Tensor:
    """Return the tensor with the given name: a constant, a weight of the source, or rows of a weight."""
    constant = constants.get(name)
    if constant is not None:
        return constant
    tensor, rows = parse_piece_name(name)
    return source.tensor(tensor)[rows]
