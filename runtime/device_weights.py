"""Weights on a GPU, once for two graphs: the weight file as it is, and where each tensor lies in it.

Two sessions that read one file would each copy it to the device: 5 GB of a 3B model, twice. So the file is
copied once, in one piece, and sessions are given addresses in it. (Where prefill and decode are the same
graph one session serves both, and nothing has to be shared.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .errors import BundleError
from .gather import GATHER, open_gather
from .manifest import GraphSpec, Manifest
from .onnx_file import StoredTensor, read_onnx
from .session import Placement
from .tensors import Tensor


@dataclass(frozen=True)
class DeviceWeights:
    """A weight file on a device, and the tensors in it; to be kept as long as sessions that read it."""

    file: Tensor  # uint8[bytes]
    tensors: dict[str, Any]  # OrtValues by name, each a part of the file

    def of(self, folder: Path, graph: GraphSpec) -> dict[str, Any]:
        """Those that a graph reads, by name."""
        return {name: self.tensors[name] for name in _stored(folder, graph) if name in self.tensors}


def load_weights(folder: Path, manifest: Manifest, placement: Placement) -> DeviceWeights | None:
    """Copy the file that prefill and decode share to the device; None where there is nothing to share.

    Raises:
        BundleError: a graph is damaged, or reads beyond the file's end.
        ProviderError: the device does not start.
        ResourceError: out of device memory.
    """
    graphs = manifest.graphs
    if placement.device == "cpu" or graphs.prefill.digest == graphs.decode.digest:
        return None
    stored = [_stored(folder, graph) for graph in (graphs.prefill, graphs.decode)]
    shared = {tensor.file for tensor in stored[0].values()} & {tensor.file for tensor in stored[1].values()}
    if len(shared) != 1:
        return None
    (name,) = shared
    size = manifest.files[str(name)].bytes
    content = np.memmap(folder / str(name), np.uint8, mode="r", shape=(size,))
    file = Tensor.empty((size,), "uint8", placement, f"{folder / str(name)}")
    file.put(content)
    view = _View(file)
    tensors = {}
    for tensor in (*stored[0].values(), *stored[1].values()):
        if tensor.file != name:
            continue
        if tensor.offset + tensor.length > size:
            raise BundleError(f"{folder / str(name)}: is shorter than its graphs say; export again")
        tensors[tensor.name] = view(tensor)
    return DeviceWeights(file, tensors)


def _stored(folder: Path, graph: GraphSpec) -> dict[str, StoredTensor]:
    return {tensor.name: tensor for tensor in _external(folder, graph)}


def _external(folder: Path, graph: GraphSpec) -> Iterator[StoredTensor]:
    return (tensor for tensor in read_onnx(folder / graph.file).tensors if tensor.file is not None)


class _View:
    """Makes OrtValues that do not own their memory, which is what sessions take.

    The engine's Python has no function for that. But an output that is bound to an address is one.
    """

    def __init__(self, file: Tensor) -> None:
        self._file, self._session = file, open_gather(Placement("cpu", 1))

    def __call__(self, tensor: StoredTensor) -> Any:
        binding, place = self._session.io_binding(), self._file.placement
        address = self._file.address + tensor.offset
        shape = list(tensor.shape)
        binding.bind_output(
            GATHER.outputs[0].name, place.device, place.index, tensor.data_type, shape, address
        )
        (value,) = binding.get_outputs()
        return value
