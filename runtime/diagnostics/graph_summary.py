"""Summarise a bundle's graphs: the operators, and the bits per number of each layer's stored matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from ..bundle.integrity import file_problem
from ..bundle.schema import Manifest
from ..bundle.tensor_table import StoredTensor, TensorTable
from ..errors import BundleError


@dataclass(frozen=True)
class StoredMatrices:
    """All matrices of a layer, or a single matrix that belongs to no layer."""

    where: str  # language_model.layers, or the name of the matrix
    layer: int | None
    matrices: int
    bits: tuple[int, ...]  # bits per number, ascending without repetition
    bytes: int  # size of the numbers, without scales


@dataclass(frozen=True)
class GraphContents:
    """Sizes, operators and matrices of one graph."""

    bytes: int  # size of the graph file
    weight_bytes: int  # bytes of the graph's tensors in weight files; a shared tensor counts once
    operators: dict[str, int]  # number of nodes by operator, descending
    matrices: tuple[StoredMatrices, ...]


def summarize_graphs(folder: Path, manifest: Manifest, table: TensorTable) -> dict[str, GraphContents]:
    """Return the contents of each graph of a bundle, by the graph's name in the manifest.

    Raises:
        BundleError: a graph is missing or altered.
    """
    contents = {}
    for name, graph in manifest.graphs.by_name.items():
        spec = manifest.files[graph.file]
        if problem := file_problem(folder / graph.file, spec, hashed=True):
            raise BundleError(f"{folder}: {problem}; copy the bundle again, or export it again")
        tensors = table.graphs[name]
        lengths = {(tensor.file, tensor.offset): tensor.length for tensor in tensors}
        contents[name] = GraphContents(
            spec.bytes, sum(lengths.values()), graph.operators, tuple(_matrices(tensors))
        )
    return contents


def spans(stored: Sequence[StoredMatrices]) -> list[tuple[str, StoredMatrices]]:
    """Merge equal neighbouring layers; return the name and the first layer of each merged range.

    Example of a name: `language_model.layers.0-17`.
    """
    rows = []
    for _, alike in groupby(
        stored, lambda layer: (layer.where, layer.layer is None, layer.matrices, layer.bits)
    ):
        group = list(alike)
        first, last = group[0], group[-1]
        numbers = f".{first.layer}" if first.layer == last.layer else f".{first.layer}-{last.layer}"
        rows.append((first.where + ("" if first.layer is None else numbers), first))
    return rows


def _matrices(tensors: Sequence[StoredTensor]) -> list[StoredMatrices]:
    """Group matrices by layer in ascending order; matrices outside the layers come last."""
    layers: dict[tuple[bool, str, int], list[tuple[int, int]]] = {}  # bits and bytes of each matrix
    for tensor in tensors:
        if (matrix := tensor.matrix) is not None:
            key = (matrix.layer is None, matrix.part, matrix.layer or 0)
            layers.setdefault(key, []).append((matrix.bits, tensor.length))
    return [
        StoredMatrices(
            where=part,
            layer=None if outside else layer,
            matrices=len(group),
            bits=tuple(sorted({bits for bits, _ in group})),
            bytes=sum(length for _, length in group),
        )
        for (outside, part, layer), group in sorted(layers.items())
    ]
