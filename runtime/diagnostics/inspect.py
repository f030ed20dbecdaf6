"""What is in a bundle, in figures a person can use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..bundle.schema import Manifest
from ..bundle.tensor_table import read_tensor_table
from ..engine.devices import Placement
from ..engine.prepared_graphs import find_prepared
from ..errors import ProviderError
from .graph_summary import GraphContents, spans, summarize_graphs
from .machine import this_machine
from .memory_estimate import (
    BATCHES,
    CacheSize,
    MemoryEstimate,
    cache_bytes,
    cache_sizes,
    estimate_memory,
    one_picture,
)

MIB = 1 << 20  # bytes
OPERATORS = 6  # of a graph that the table names; the JSON has all

WEIGHTS = {
    "mapped": "mapped as they are, shared with other processes",
    "prepared": "mapped as prepared, shared with other processes",
    "packed": "private, in the order of this processor's kernels; `prepare` has them mapped",
    "device": "on the GPU, each once",
}


@dataclass(frozen=True)
class Inspection:
    """A bundle, and what it takes here."""

    manifest: Manifest
    graphs: Mapping[str, GraphContents]
    caches: tuple[CacheSize, ...]
    memory: MemoryEstimate


def inspect_bundle(folder: Path, manifest: Manifest) -> Inspection:
    """Look into a bundle's graphs, and at this machine; weights are not read.

    Raises:
        BundleError: a graph or the tensor table is missing, altered or damaged.
    """
    tensors, machine = read_tensor_table(folder, manifest), this_machine()
    graphs = summarize_graphs(folder, manifest, tensors)
    try:
        prepared = find_prepared(manifest, Placement("cpu", machine.threads)) is not None
    except ProviderError:  # no engine here, so nothing that it prepared
        prepared = False
    memory = estimate_memory(manifest, tensors, machine, prepared=prepared)
    return Inspection(manifest, graphs, cache_sizes(manifest), memory)


def facts(found: Inspection) -> dict[str, Any]:
    """The manifest without its tensor lists, and what follows from it."""
    manifest = found.manifest
    full = asdict(manifest)
    graphs = {
        name: {
            "file": graph["file"],
            "inputs": len(graph["inputs"]),
            "outputs": len(graph["outputs"]),
            **asdict(found.graphs[name]),
        }
        for name, graph in full.pop("graphs").items()
        if graph is not None
    }
    return {
        **full,
        "graphs": graphs,
        "total_bytes": sum(spec.bytes for spec in manifest.files.values()),
        "cache_bytes_per_token": cache_bytes(manifest, 1),
        "cache_bytes_full_context": cache_bytes(manifest, manifest.model.context_length),
        "cache_by_length": [asdict(size) for size in found.caches],
        "memory": asdict(found.memory),
    }


def table(found: Inspection) -> str:
    """The same for a person."""
    manifest = found.manifest
    model, image, cache = manifest.model, manifest.image, manifest.cache
    total = sum(spec.bytes for spec in manifest.files.values())
    lines = [
        f"bundle      {manifest.bundle_id}, schema {manifest.schema_version}",
        f"model       {model.family}, {model.parameters:,} parameters, width {model.hidden_size}, "
        f"{model.vocab_size:,} words, context {model.context_length} tokens",
        f"image       {image.size} x {image.size} pixels become {image.tokens} tokens",
        f"precision   {manifest.precision.name}, ONNX opset {manifest.precision.opset}, "
        f"for {' and '.join(manifest.precision.devices)}",
        *(f"            {graph} {form}" for graph, form in vars(manifest.precision.matrices).items()),
        f"cache       {cache.layers} layers x {cache.heads} heads x {cache.head_dim}: "
        f"{cache_bytes(manifest, 1) / 1024:.0f} KiB a token, "
        f"{cache_bytes(manifest, one_picture(manifest)) / MIB:.1f} MiB for one image and a short answer",
        f"made by     paligemma-onnx {manifest.producer.paligemma_onnx}, torch {manifest.producer.torch}, "
        f"onnx {manifest.producer.onnx}",
        "",
        *(f"{spec.bytes:>16,}  {name}" for name, spec in sorted(manifest.files.items())),
        f"{total:>16,}  bytes in all",
        *(line for name, graph in found.graphs.items() for line in _graph(name, graph)),
        "",
        *_caches(found),
        "",
        *_memory(found.memory),
    ]
    return "\n".join(lines)


def _graph(name: str, graph: GraphContents) -> Iterator[str]:
    """Size, operators, and its matrices by layer."""
    yield ""
    yield (
        f"{name}: {sum(graph.operators.values()):,} nodes, graph {_size(graph.bytes)}, "
        f"weights {_size(graph.weight_bytes)}"
    )
    named = list(graph.operators.items())
    rest = sum(count for _, count in named[OPERATORS:])
    listed = ", ".join(f"{count} {operator}" for operator, count in named[:OPERATORS])
    yield f"    {listed}{f', {rest} others' if rest else ''}"
    for where, one in spans(graph.matrices):
        bits = " and ".join(map(str, one.bits))
        each = f"{one.matrices} matrices a layer" if one.layer is not None else "1 matrix"
        yield f"    {where:<48} {bits:>7} bits  {each}, {_size(one.bytes)}"


def _caches(found: Inspection) -> Iterator[str]:
    yield f"{'cache of tokens':<16}" + "".join(f"{f'batch {batch}':>12}" for batch in BATCHES)
    sizes = {(size.tokens, size.batch): size.bytes for size in found.caches}
    names = {
        one_picture(found.manifest): "one picture",
        found.manifest.model.context_length: "full context",
    }
    for tokens in dict.fromkeys(size.tokens for size in found.caches):
        row = "".join(f"{_size(sizes[tokens, batch]):>12}" for batch in BATCHES)
        yield f"{tokens:>15,} {row}   {names.get(tokens, '')}".rstrip()


def _memory(memory: MemoryEstimate) -> Iterator[str]:
    place = "GPU" if memory.weights == "device" else "CPU"
    yield f"memory      about {_size(memory.total_bytes)} for one request on the {place}:"
    yield f"            {_size(memory.weights_bytes)} weights, {WEIGHTS[memory.weights]}"
    yield f"            {_size(memory.cache_bytes)} cache, {_size(memory.other_bytes)} for all else"
    if memory.machine_bytes is None:
        unknown = "no GPU is here" if place == "GPU" else "how much this machine has is unknown"
        yield f"            {unknown}"
        return
    free = "" if memory.free_bytes is None else f", {_size(memory.free_bytes)} of it free"
    fits = "it fits" if memory.fits else "it does not fit"
    if memory.fits and memory.fits_now is False:
        fits = "it fits once other programs have given memory back"
    where = "this machine" if place == "CPU" else "the GPU"
    yield f"            {where} has {_size(memory.machine_bytes)}{free}: {fits}"


def _size(count: int) -> str:
    """Bytes in a unit of which there are some."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} bytes"
