"""Compare every number in a bundle's weight files with the checkpoint, bit for bit.

A tolerance of the outputs can hide a weight that is wrong by one per cent; this comparison cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from torch import Tensor

from paligemma_onnx.runtime.bundle.schema import Manifest

from ..bundle.weight_file import find_tensor
from ..precisions import Float32, HalfPrecision, WeightFormat
from ..quantization.encodings import array_layouts, encode, parse_array_name
from ..sources.tensor_source import TensorSource


@dataclass(frozen=True)
class WeightComparison:
    """Result of `compare_weights`."""

    tensors: int  # compared
    different: tuple[str, ...]  # names of the tensors that differ

    @property
    def passed(self) -> bool:
        """Return whether there are tensors and all are equal to the checkpoint's."""
        return self.tensors > 0 and not self.different


def compare_weights(
    folder: Path,
    manifest: Manifest,
    source: TensorSource,
    constants: Mapping[str, Tensor],
    progress: Callable[[str], object],
) -> WeightComparison:
    """Compare all tensors that the graphs read from weight files with the encoded checkpoint.

    Args:
        folder: the bundle.
        manifest: its manifest.
        source: the weights, as this precision stores them (`Source.weights`).
        constants: tensors of the graphs that are not weights of the checkpoint.
        progress: called with a line before the work.
    """
    progress("weights: comparing every stored number with the checkpoint")
    arrays_of: dict[tuple[Path, str, WeightFormat, bool], dict[int, set[ir.ExternalTensor]]] = {}
    for name, value in _initializers(folder, manifest):
        stored = value.const_value
        if isinstance(stored, ir.ExternalTensor):
            tensor, weight_format, array = parse_array_name(name, stored.dtype)
            # MatMul reads [in, out], the checkpoint stores [out, in].
            transposed = weight_format == Float32() and any(
                use.node.op_type == "MatMul" for use in value.uses()
            )
            arrays = arrays_of.setdefault(
                (folder / str(stored.location), tensor, weight_format, transposed), {}
            )
            arrays.setdefault(array, set()).add(stored)
    different = [
        name
        for (path, name, weight_format, transposed), arrays in arrays_of.items()
        if not _is_equal(
            path, arrays, find_tensor(name, source, constants), weight_format, transposed=transposed
        )
    ]
    return WeightComparison(len(arrays_of), tuple(dict.fromkeys(different)))


def _initializers(folder: Path, manifest: Manifest) -> Iterator[tuple[str, ir.Value]]:
    for graph in manifest.graphs.all:
        yield from ir.load(folder / graph.file).graph.initializers.items()


def _is_equal(
    path: Path,
    arrays: dict[int, set[ir.ExternalTensor]],
    tensor: Tensor,
    weight_format: WeightFormat,
    *,
    transposed: bool,
) -> bool:
    """Return whether the stored arrays have the layout and the bytes of the encoded tensor.

    Args:
        path: the weight file.
        arrays: what the graphs read from it, by index of the array in `array_layouts`.
        tensor: the checkpoint's.
        weight_format: how it is stored.
        transposed: stored as [in, out].
    """
    expected = array_layouts(tuple(tensor.shape), weight_format, transposed=transposed)
    if set(arrays) != set(range(len(expected))):
        return False
    stored_bytes = {}
    for array, layout in enumerate(expected):
        ranges = {(stored.offset or 0, stored.length or 0, stored.dtype) for stored in arrays[array]}
        if {length for _, length, _ in ranges} != {layout.length} or len(ranges) > 1:
            return False
        ((offset, length, dtype),) = ranges
        if dtype != layout.ir_dtype:
            return False
        shapes = {tuple(stored.shape.numpy()) for stored in arrays[array]}
        if isinstance(weight_format, Float32 | HalfPrecision) and shapes != {layout.shape}:
            return False
        stored_bytes[array] = np.memmap(path, dtype=np.uint8, mode="r", offset=offset, shape=(length,))
    positions = dict.fromkeys(stored_bytes, 0)
    for array, piece in encode(tensor, weight_format, transposed=transposed):
        start = positions[array]
        stored_piece = stored_bytes[array][start : start + len(piece)]
        if not np.array_equal(stored_piece, np.frombuffer(piece, np.uint8)):
            return False
        positions[array] += len(piece)
    return all(positions[array] == len(content) for array, content in stored_bytes.items())
