"""Every number of a bundle's weight files against the checkpoint, bit for bit.

A weight that is off by one per cent may hide below any tolerance of the outputs; it cannot hide here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from torch import Tensor

from paligemma_onnx.runtime.manifest import Manifest

from .weights import Placed, TensorSource, pieces


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
    """Compare the weights that the three graphs refer to with what the checkpoint holds in float32."""
    progress("weights: every stored number against the checkpoint")
    references = dict.fromkeys(_references(folder, manifest))  # prefill and decode refer to the same places
    different = []
    for file, placed in references:
        tensor = constants.get(placed.name)
        if tensor is None:
            tensor = source.tensor(placed.name)
        if not _equal(folder / file, placed, tensor):
            different.append(placed.name)
    return WeightComparison(len(references), tuple(dict.fromkeys(different)))


def _references(folder: Path, manifest: Manifest) -> Iterator[tuple[str, Placed]]:
    graphs = manifest.graphs
    for graph in (graphs.vision_encoder, graphs.prefill, graphs.decode):
        for name, value in ir.load(folder / graph.file).graph.initializers.items():
            stored = value.const_value
            if isinstance(stored, ir.ExternalTensor):
                # MatMul reads [in, out], the checkpoint stores [out, in].
                transposed = any(use.node.op_type == "MatMul" for use in value.uses())
                shape = tuple(stored.shape.numpy())
                yield (
                    str(stored.location),
                    Placed(name, shape, transposed, stored.offset or 0, stored.length or 0),
                )


def _equal(path: Path, placed: Placed, tensor: Tensor) -> bool:
    shape = tuple(reversed(tensor.shape)) if placed.transposed else tuple(tensor.shape)
    if shape != placed.shape:
        return False
    stored = np.memmap(path, dtype=np.uint8, mode="r", offset=placed.offset, shape=(placed.length,))
    position = 0
    for piece in pieces(tensor, placed):
        if not np.array_equal(stored[position : position + len(piece)], np.frombuffer(piece, np.uint8)):
            return False
        position += len(piece)
    return position == placed.length
