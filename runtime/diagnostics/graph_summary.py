"""A bundle's graphs from inside: operators, and in how many bits each layer's matrices are stored."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from pathlib import Path

from ..bundle.integrity import file_problem
from ..bundle.onnx_reader import OnnxFile, StoredTensor, read_onnx
from ..bundle.schema import GraphSpec, Manifest
from ..errors import BundleError

# TensorProto.DataType (onnx.proto) -> bits of a number
BITS = {1: 32, 10: 16, 16: 16, 2: 8, 3: 8, 21: 4, 22: 4}
# What the export puts behind the name of a matrix of fewer bits; `.rows` is the same bytes in another shape,
# `.scales` are no matrix.
_NAME = re.compile(
    r"(?P<tensor>.+?)(?:\.int(?P<bits>\d+)(?:x\d+(?:bf16|fp16)?)?(?P<beside>\.rows|\.scales)?)?"
)
_LAYER = re.compile(r"(?P<where>.*\blayers)\.(?P<layer>\d+)\..*")


@dataclass(frozen=True)
class StoredMatrices:
    """The matrices of one layer, or one that belongs to none."""

    where: str  # language_model.layers, or the matrix' own name
    layer: int | None
    matrices: int
    bits: tuple[int, ...]  # of a number, each once
    bytes: int  # of the numbers, without scales


@dataclass(frozen=True)
class GraphContents:
    """What one graph is made of."""

    bytes: int  # of the graph itself
    weight_bytes: int  # that it reads from weight files, each once
    operators: dict[str, int]  # the most frequent first
    matrices: tuple[StoredMatrices, ...]


def graph_specs(manifest: Manifest) -> dict[str, GraphSpec]:
    """A manifest's graphs by name, in order."""
    named = {field.name: getattr(manifest.graphs, field.name) for field in fields(manifest.graphs)}
    return {name: graph for name, graph in named.items() if graph is not None}


def read_graphs(folder: Path, manifest: Manifest) -> dict[str, GraphContents]:
    """What each graph of a bundle is made of, by its name in the manifest.

    Raises:
        BundleError: a graph is missing, altered or damaged.
    """
    return {name: _contents(folder, graph, manifest) for name, graph in graph_specs(manifest).items()}


def spans(stored: Sequence[StoredMatrices]) -> list[tuple[str, StoredMatrices]]:
    """Neighbouring layers that are alike as one: a name (`language_model.layers.0-17`) and the first."""
    rows = []
    for _, alike in groupby(stored, lambda one: (one.where, one.layer is None, one.matrices, one.bits)):
        group = list(alike)
        first, last = group[0], group[-1]
        numbers = f".{first.layer}" if first.layer == last.layer else f".{first.layer}-{last.layer}"
        rows.append((first.where + ("" if first.layer is None else numbers), first))
    return rows


def _contents(folder: Path, graph: GraphSpec, manifest: Manifest) -> GraphContents:
    spec = manifest.files[graph.file]
    if problem := file_problem(folder / graph.file, spec, hashed=True):
        raise BundleError(f"{folder}: {problem}; copy the bundle again, or export it again")
    read = read_onnx(folder / graph.file)
    places = {(one.file, one.offset): one.length for one in read.tensors if one.file is not None}
    return GraphContents(spec.bytes, sum(places.values()), read.operators, tuple(_matrices(read)))


def _matrices(read: OnnxFile) -> list[StoredMatrices]:
    """By layer, in their order; what belongs to none comes last."""
    layers: dict[tuple[str, int | None], list[tuple[int, StoredTensor]]] = {}
    for tensor in read.tensors:
        name = _NAME.fullmatch(tensor.name)
        if name is None or name["beside"] or tensor.file is None or len(tensor.shape) < 2:
            continue
        bits = int(name["bits"] or BITS.get(tensor.data_type, 0))
        found = _LAYER.fullmatch(name["tensor"])
        key = (found["where"], int(found["layer"])) if found else (name["tensor"], None)
        layers.setdefault(key, []).append((bits, tensor))
    ordered = sorted(layers.items(), key=lambda item: (item[0][1] is None, item[0][0], item[0][1] or 0))
    return [
        StoredMatrices(
            where=where,
            layer=layer,
            matrices=len(group),
            bits=tuple(sorted({bits for bits, _ in group})),
            bytes=sum(tensor.length for _, tensor in group),
        )
        for (where, layer), group in ordered
    ]
