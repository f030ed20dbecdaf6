"""Read `tensors.json`, which lists the initializers of each graph and their places in the weight files.

The exporter writes this table, so the runtime needs no ONNX parser. The table is not a part of the manifest,
because it is large (0.4 MB for a 46-layer model) and only `inspect` and sessions on a GPU read it.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import BundleError
from .dtypes import DTYPES, DTypeName
from .integrity import file_problem
from .json_file import build, read_json_object
from .schema import TENSOR_TABLE, Manifest

MAX_TABLE_BYTES = 16 << 20


@dataclass(frozen=True)
class MatrixFacts:
    """The place of a matrix in the model and the width of its numbers."""

    part: str  # such as "language_model.layers"; outside the layers: the name in the checkpoint
    layer: int | None  # index of the layer; None: outside the layers
    bits: int  # bits per number


@dataclass(frozen=True)
class StoredTensor:
    """An initializer of a graph and its place in a weight file."""

    name: str  # name of the initializer
    dtype: DTypeName
    shape: tuple[int, ...]
    file: str
    offset: int  # bytes from the start of the file
    # None if the initializer is not a matrix (but a bias, a norm or scales), or if it has the same bytes as
    # another initializer in a different shape.
    matrix: MatrixFacts | None

    @property
    def length(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * DTYPES[self.dtype].bytes


@dataclass(frozen=True)
class TensorTable:
    """Initializers by graph name. Constants that are stored inside a graph file are not listed."""

    graphs: dict[str, tuple[StoredTensor, ...]]

    def to_json(self) -> str:
        """Return the table as JSON text with one tensor per line. Equal tables give equal texts."""
        graphs = [
            f"{json.dumps(name)}: [\n" + ",\n".join(json.dumps(asdict(tensor)) for tensor in tensors) + "\n]"
            for name, tensors in self.graphs.items()
        ]
        return '{"graphs": {\n' + ",\n".join(graphs) + "\n}}\n"


def read_tensor_table(folder: Path, manifest: Manifest) -> TensorTable:
    """Read and check `tensors.json`, and return the table.

    Raises:
        BundleError: the file is missing, altered or damaged, or a tensor lies outside its weight file.
    """
    path = folder / TENSOR_TABLE
    if problem := file_problem(path, manifest.files[TENSOR_TABLE], hashed=True):
        raise BundleError(f"{folder}: {problem}; copy the bundle again, or export it again")
    data = read_json_object(path, MAX_TABLE_BYTES)
    try:
        table = build(TensorTable, data)
        if table.graphs.keys() != manifest.graphs.by_name.keys():
            raise ValueError("lists other graphs than the manifest")
        for tensors in table.graphs.values():
            for tensor in tensors:
                _check_tensor(tensor, manifest)
    except ValueError as error:
        raise BundleError(f"{path}: {error}; export the checkpoint again") from None
    return table


def packed_bytes(manifest: Manifest, table: TensorTable) -> int:
    """Return the total size of the files whose weights the sessions of a quantised bundle pack.

    With a cache that grows, prefill and decode are two graphs of the same matrices, and the session of each
    graph packs them, so the weights of decode count twice.
    """
    size = sum(spec.bytes for spec in manifest.files.values())
    if manifest.cache.update == "grow":
        size += sum(tensor.length for tensor in table.graphs["decode"])
    return size


def _check_tensor(tensor: StoredTensor, manifest: Manifest) -> None:
    if min(*tensor.shape, tensor.offset, 0) < 0:
        raise ValueError(f"{tensor.name!a} has a negative size or offset")
    if tensor.file not in manifest.files:
        raise ValueError(f"{tensor.name!a} lies in {tensor.file!a}, which the manifest does not list")
    if tensor.offset + tensor.length > manifest.files[tensor.file].bytes:
        raise ValueError(f"{tensor.name!a} ends after the end of {tensor.file}")
    if tensor.matrix is not None and not tensor.matrix.part.isprintable():
        raise ValueError(f"{tensor.name!a} belongs to {tensor.matrix.part!a}, which is not printable")
