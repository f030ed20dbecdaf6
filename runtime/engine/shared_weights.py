"""Copy the weights that prefill and decode share to a GPU, once for both sessions.

Without sharing, each of two sessions that read the same file copies it to the device: 5 GB of a 3B model,
twice. So this module copies the file in a few pieces, and both sessions get tensors at addresses in these
pieces. If prefill and decode are the same graph, a single session runs both, and nothing has to be shared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..bundle.schema import Manifest
from ..bundle.tensor_table import StoredTensor, read_tensor_table
from .device_tensor import DeviceTensor
from .devices import Placement
from .gather_features import GATHER, open_gather
from .memory import MAX_ALLOCATION_BYTES
from .ort import OrtValue


@dataclass(frozen=True)
class SharedWeights:
    """A weight file on a device, and its tensors. Keep the object as long as sessions read the tensors."""

    pieces: tuple[DeviceTensor, ...]  # uint8[bytes] each; gaps of the file between pieces are left out
    tensors: dict[str, dict[str, OrtValue]]  # tensors in the pieces, by graph digest and initializer name


def load_shared_weights(folder: Path, manifest: Manifest, placement: Placement) -> SharedWeights | None:
    """Copy the weight file that prefill and decode share to the GPU, and return it.

    Returns:
        The weights, or None if there is nothing to share.

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
    files = set.intersection(*({tensor.file for tensor in tensors} for tensors in stored.values()))
    if len(files) != 1:
        return None
    (file,) = files
    path = folder / file
    shared = {
        digest: [tensor for tensor in tensors if tensor.file == file] for digest, tensors in stored.items()
    }
    by_name = {tensor.name: tensor for tensors in shared.values() for tensor in tensors}
    pieces, values, make_view = [], dict[str, OrtValue](), _ViewMaker()
    for group in split_into_pieces(sorted(by_name.values(), key=lambda tensor: tensor.offset)):
        start, end = group[0].offset, max(tensor.offset + tensor.length for tensor in group)
        piece = DeviceTensor.empty((end - start,), "uint8", placement, f"{path}")
        piece.copy_from(np.memmap(path, np.uint8, mode="r", offset=start, shape=(end - start,)))
        pieces.append(piece)
        values |= {
            tensor.name: make_view(
                DeviceTensor(piece.memory, tensor.dtype, tensor.shape, placement, tensor.offset - start)
            )
            for tensor in group
        }
    by_graph = {
        digest: {tensor.name: values[tensor.name] for tensor in tensors} for digest, tensors in shared.items()
    }
    return SharedWeights(tuple(pieces), by_graph)


def split_into_pieces(tensors: Sequence[StoredTensor]) -> Iterator[list[StoredTensor]]:
    """Yield groups of neighbouring tensors, each of at most MAX_ALLOCATION_BYTES.

    Args:
        tensors: tensors of a file in the order of their offsets.
    """
    piece: list[StoredTensor] = []
    for tensor in tensors:
        if piece and tensor.offset + tensor.length - piece[0].offset > MAX_ALLOCATION_BYTES:
            yield piece
            piece = []
        piece.append(tensor)
    yield piece


class _ViewMaker:
    """Makes OrtValues that refer to memory without owning it. Sessions accept them as initializers.

    onnxruntime's Python interface has no function that makes these OrtValues. But when an output is bound to
    an address, the binding holds an OrtValue of this kind. So the class binds an output of any session to the
    address; it does not run the session.
    """

    def __init__(self) -> None:
        self._session = open_gather(Placement("cpu", 1))

    def __call__(self, tensor: DeviceTensor) -> OrtValue:
        binding = self._session.io_binding()
        tensor.bind_output(binding, GATHER.outputs[0].name)
        (value,) = binding.get_outputs()
        return value
