"""Every number of a bundle's weight files against the checkpoint, bit for bit.

A weight that is off by one per cent may hide below any tolerance of the outputs; it cannot hide here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx_ir as ir
from torch import Tensor

from paligemma_onnx.runtime.bundle.schema import Manifest

from ..bundle.weight_file import lookup
from ..precisions import BlockQuantized, Float32, HalfPrecision, Int8PerChannel, WeightFormat
from ..quantization.encodings import MARKS, encode, layouts
from ..quantization.quantize_graph import HALF_OF
from ..sources.tensor_source import TensorSource

_SUFFIX = re.compile(
    r"(?P<tensor>.+)\.int(?P<bits>[48])(x(?P<size>\d+)(?P<mark>bf16|fp16)?)?(?P<kind>\.scales|\.rows|)"
)


@dataclass(frozen=True)
class WeightComparison:
    """What was found."""

    tensors: int
    different: tuple[str, ...]  # names

    @property
    def passed(self) -> bool:
        """Whether every tensor is the checkpoint's."""
        return self.tensors > 0 and not self.different


def compare_weights(
    folder: Path,
    manifest: Manifest,
    source: TensorSource,
    constants: Mapping[str, Tensor],
    progress: Callable[[str], object],
) -> WeightComparison:
    """Compare all that the graphs read from files with what the checkpoint's tensors become.

    Args:
        folder: the bundle.
        manifest: its manifest.
        source: the weights, as this precision stores them (`Source.weights`).
        constants: tensors that are no weights.
        progress: told what is done.
    """
    progress("weights: every stored number against the checkpoint")
    read_from: dict[tuple[Path, str, WeightFormat, bool], dict[int, set[ir.ExternalTensor]]] = {}
    for name, value in _initializers(folder, manifest):
        stored = value.const_value
        if isinstance(stored, ir.ExternalTensor):
            tensor, form, array = _named(name, stored.dtype)
            # MatMul reads [in, out], the checkpoint stores [out, in].
            transposed = form == Float32() and any(use.node.op_type == "MatMul" for use in value.uses())
            arrays = read_from.setdefault((folder / str(stored.location), tensor, form, transposed), {})
            arrays.setdefault(array, set()).add(stored)
    different = [
        name
        for (path, name, form, transposed), arrays in read_from.items()
        if not _equal(path, arrays, lookup(name, source, constants), form, transposed=transposed)
    ]
    return WeightComparison(len(read_from), tuple(dict.fromkeys(different)))


def _initializers(folder: Path, manifest: Manifest) -> Iterator[tuple[str, ir.Value]]:
    for graph in manifest.graphs.every:
        yield from ir.load(folder / graph.file).graph.initializers.items()


def _named(name: str, dtype: ir.DataType) -> tuple[str, WeightFormat, int]:
    """What an initialiser reads, by its name: the tensor, its form and which of its arrays."""
    found = _SUFFIX.fullmatch(name)
    if found is None:
        half = HALF_OF.get(dtype)
        return name, Float32() if half is None else HalfPrecision(half), 0
    scales = found["kind"] == ".scales"
    if found["size"] is None:
        return found["tensor"], Int8PerChannel(), 0 if scales else 1
    used: dict[str | None, Literal["float32", "bfloat16", "float16"]] = {None: "float32"}
    used |= {mark: half for half, mark in MARKS.items()}
    blocks = BlockQuantized(4 if found["bits"] == "4" else 8, int(found["size"]), used[found["mark"]])
    return found["tensor"], blocks, int(scales)


def _equal(
    path: Path,
    arrays: dict[int, set[ir.ExternalTensor]],
    tensor: Tensor,
    form: WeightFormat,
    *,
    transposed: bool,
) -> bool:
    expected = layouts(tuple(tensor.shape), form, transposed=transposed)
    if set(arrays) != set(range(len(expected))):
        return False
    places = {}
    for array, layout in enumerate(expected):
        spots = {(stored.offset or 0, stored.length or 0, stored.dtype) for stored in arrays[array]}
        if {length for _, length, _ in spots} != {layout.length} or len(spots) > 1:
            return False
        ((offset, length, dtype),) = spots
        if dtype != layout.dtype:
            return False
        shapes = {tuple(stored.shape.numpy()) for stored in arrays[array]}
        if isinstance(form, Float32 | HalfPrecision) and shapes != {layout.shape}:
            return False
        places[array] = np.memmap(path, dtype=np.uint8, mode="r", offset=offset, shape=(length,))
    positions = dict.fromkeys(places, 0)
    for array, piece in encode(tensor, form, transposed=transposed):
        start = positions[array]
        if not np.array_equal(places[array][start : start + len(piece)], np.frombuffer(piece, np.uint8)):
            return False
        positions[array] += len(piece)
    return all(positions[array] == len(places[array]) for array in places)
