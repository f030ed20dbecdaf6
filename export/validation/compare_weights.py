"""Compare every number in a bundle's weight files with the checkpoint, bit for bit.

A comparison of outputs needs a tolerance, which can hide a weight that is wrong by one per cent. This
comparison needs no tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from torch import Tensor

from paligemma_onnx.runtime.bundle.schema import Manifest

from ..bundle.weight_file import find_tensor
from ..precisions import Float32, HalfPrecision, WeightFormat
from ..quantization.encodings import array_layouts, encode, parse_array_name
from ..source import Source
from ..sources.tensor_source import TensorSource


@dataclass(frozen=True)
class WeightComparison:
    """Number of tensors that `compare_weights` compared, and the names of those that differ."""

    tensors: int  # number of compared tensors
    different: tuple[str, ...]  # names of the tensors that differ

    @property
    def passed(self) -> bool:
        """Return whether at least one tensor was compared and no tensor differs from the checkpoint."""
        return self.tensors > 0 and not self.different


def compare_weights(
    folder: Path, manifest: Manifest, source: Source, progress: Callable[[str], object]
) -> WeightComparison:
    """Compare all tensors that the graphs read from weight files with the checkpoint's tensors.

    The checkpoint's tensors are encoded in the formats of the bundle for the comparison.

    Args:
        folder: the bundle.
        manifest: the bundle's manifest.
        source: the checkpoint.
        progress: called with a line of text before the comparison starts.
    """
    progress("weights: comparing every stored number with the checkpoint")
    paths = [folder / graph.file for graph in manifest.graphs.all]
    return compare_graph_weights(paths, source.weights(manifest.precision.name), source.constants)


def compare_graph_weights(
    graphs: Sequence[Path], weights: TensorSource, constants: Mapping[str, Tensor]
) -> WeightComparison:
    """Compare all tensors that graphs read from weight files with the tensors that were to be stored.

    Args:
        graphs: the graph files.
        weights: provides the weights.
        constants: tensors that are not weights, such as rotary tables.
    """
    # The arrays of each tensor that the graphs read; the inner key is the array's index in `array_layouts`.
    reads: dict[tuple[Path, str, WeightFormat, bool], dict[int, list[ir.ExternalTensor]]] = {}
    for graph in graphs:
        for name, value in ir.load(graph).graph.initializers.items():
            stored = value.const_value
            if isinstance(stored, ir.ExternalTensor):
                tensor_name, weight_format, array = parse_array_name(name, stored.dtype)
                # MatMul reads [in, out], the checkpoint stores [out, in].
                is_float = isinstance(weight_format, Float32 | HalfPrecision)
                transposed = is_float and any(use.node.op_type == "MatMul" for use in value.uses())
                key = graph.parent / str(stored.location), tensor_name, weight_format, transposed
                reads.setdefault(key, {}).setdefault(array, []).append(stored)
    different = []
    for (path, name, weight_format, transposed), arrays in reads.items():
        tensor = find_tensor(name, weights, constants)
        if not _is_equal(path, arrays, tensor, weight_format, transposed=transposed):
            different.append(name)
    return WeightComparison(len(reads), tuple(dict.fromkeys(different)))


def _is_equal(
    path: Path,
    arrays: dict[int, list[ir.ExternalTensor]],
    tensor: Tensor,
    weight_format: WeightFormat,
    *,
    transposed: bool,
) -> bool:
    """Return whether the stored arrays have the layout and the bytes of the encoded tensor.

    Args:
        path: the weight file.
        arrays: the arrays that the graphs read from the file, by their index in `array_layouts`.
        tensor: the checkpoint's tensor.
        weight_format: the format in which the bundle stores the tensor.
        transposed: whether the bundle stores the tensor as [in, out].
    """
    layouts = array_layouts(tuple(tensor.shape), weight_format, transposed=transposed)
    if set(arrays) != set(range(len(layouts))):
        return False
    contents = []
    for array, layout in enumerate(layouts):
        offset = arrays[array][0].offset or 0
        if {(stored.offset or 0, stored.length, stored.dtype) for stored in arrays[array]} != {
            (offset, layout.length, layout.ir_dtype)
        }:
            return False
        shapes = {tuple(stored.shape.numpy()) for stored in arrays[array]}
        if isinstance(weight_format, Float32 | HalfPrecision) and shapes != {layout.shape}:
            return False
        contents.append(np.memmap(path, np.uint8, "r", offset, (layout.length,)))
    positions = [0] * len(contents)
    for array, piece in encode(tensor, weight_format, transposed=transposed):
        start, positions[array] = positions[array], positions[array] + len(piece)
        if not np.array_equal(contents[array][start : positions[array]], np.frombuffer(piece, np.uint8)):
            return False
    return positions == [layout.length for layout in layouts]
