"""Weights on a GPU, once for two graphs: the weight file as it is, and where each tensor lies.

Two sessions that read one file would each copy it to the device: 5 GB of a 3B model, twice. So the file is
copied once, in few pieces, and sessions are given addresses in them. (Where prefill and decode are the same
graph one session serves both, and nothing has to be shared.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..bundle.dtypes import DTYPES
from ..bundle.schema import Manifest
from ..bundle.tensor_table import StoredTensor, read_tensor_table
from .device_tensor import DeviceTensor
from .devices import Placement
from .gather_features import GATHER, open_gather
from .memory import MAX_ALLOCATION_BYTES


@dataclass(frozen=True)
class SharedWeights:
    """A weight file on a device, and the tensors in it; to be kept as long as sessions that read it."""

    pieces: tuple[DeviceTensor, ...]  # uint8[bytes] each, together the file but for gaps between tensors
    tensors: dict[str, dict[str, Any]]  # by graph (its digest) and name; OrtValues, each a part of a piece


def load_shared_weights(folder: Path, manifest: Manifest, placement: Placement) -> SharedWeights | None:
    """Copy the file that prefill and decode share to the device; None where there is nothing to share.

    Raises:
        BundleError: the tensor table is missing or damaged.
        ProviderError: the device does not start.
        ResourceError: out of device memory.
    """
    graphs = manifest.graphs
    if placement.device == "cpu" or graphs.prefill.digest == graphs.decode.digest:
        return None
    table = read_tensor_table(folder, manifest).graphs
    stored = {graphs.prefill.digest: table["prefill"], graphs.decode.digest: table["decode"]}
    shared = set.intersection(*({tensor.file for tensor in read} for read in stored.values()))
    if len(shared) != 1:
        return None
    (name,) = shared
    path = folder / name
    every = {one.name: one for read in stored.values() for one in read if one.file == name}
    pieces, tensors, view = [], dict[str, Any](), _View()
    for group in split_into_pieces(sorted(every.values(), key=lambda one: one.offset)):
        start, end = group[0].offset, max(one.offset + one.length for one in group)
        piece = DeviceTensor.empty((end - start,), "uint8", placement, f"{path}")
        piece.put(np.memmap(path, np.uint8, mode="r", offset=start, shape=(end - start,)))
        pieces.append(piece)
        tensors |= {one.name: view(piece, one, one.offset - start) for one in group}
    given = {
        digest: {one.name: tensors[one.name] for one in read if one.file == name}
        for digest, read in stored.items()
    }
    return SharedWeights(tuple(pieces), given)


def split_into_pieces(tensors: Sequence[StoredTensor]) -> Iterator[list[StoredTensor]]:
    """Split tensors, in the order of their offsets, into runs of at most MAX_ALLOCATION_BYTES."""
    group: list[StoredTensor] = []
    for tensor in tensors:
        if group and tensor.offset + tensor.length - group[0].offset > MAX_ALLOCATION_BYTES:
            yield group
            group = []
        group.append(tensor)
    yield group


class _View:
    """Makes OrtValues that do not own their memory, which is what sessions take.

    The engine's Python has no function for that. But an output that is bound to an address is one.
    """

    def __init__(self) -> None:
        self._session = open_gather(Placement("cpu", 1))

    def __call__(self, piece: DeviceTensor, tensor: StoredTensor, offset: int) -> Any:
        binding, place = self._session.io_binding(), piece.placement
        shape, address = list(tensor.shape), piece.address + offset
        output = GATHER.outputs[0].name
        binding.bind_output(output, place.device, place.index, DTYPES[tensor.dtype].onnx_type, shape, address)
        (value,) = binding.get_outputs()
        return value
