"""The `inspect` command, which prints a bundle's contents and the memory it needs, as JSON or as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..bundle.integrity import file_problem
from ..bundle.schema import GenerationDefaults, Manifest
from ..bundle.tensor_table import read_tensor_table
from ..console import printable
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
    short_request_tokens,
)

KIB, MIB = 1 << 10, 1 << 20  # bytes
MAX_IDS = 8  # ids of suppressed tokens that the text lists; the JSON lists all
MAX_OPERATORS = 6  # operators that the text lists per graph; the JSON lists all

WEIGHTS = {
    "mapped": "mapped from the bundle's files, shared between processes",
    "prepared": "mapped from the prepared graphs, shared between processes",
    "packed": "private to the process, repacked for this CPU's kernels (after `prepare`: mapped and shared)",
    "device": "on the GPU",
}


@dataclass(frozen=True)
class Inspection:
    """A bundle's contents and the memory that the bundle needs on this machine."""

    manifest: Manifest
    graphs: Mapping[str, GraphContents]
    caches: tuple[CacheSize, ...]
    memory: MemoryEstimate
    file_problems: tuple[str, ...]  # missing files and files of another size


def inspect_bundle(folder: Path, manifest: Manifest) -> Inspection:
    """Return the inspection of a bundle on this machine; the weights are not read.

    Raises:
        BundleError: a graph or the tensor table is missing, altered or damaged.
    """
    tensors, machine = read_tensor_table(folder, manifest), this_machine()
    graphs = summarize_graphs(folder, manifest, tensors)
    try:
        prepared = find_prepared(manifest, Placement("cpu", machine.threads)) is not None
    except ProviderError:  # without onnxruntime, prepared graphs cannot be used
        prepared = False
    memory = estimate_memory(manifest, tensors, machine, prepared=prepared)
    files = manifest.files.items()
    problems = (file_problem(folder / name, spec, hashed=False) for name, spec in files)
    found = tuple(problem for problem in problems if problem is not None)
    return Inspection(manifest, graphs, cache_sizes(manifest), memory, found)


def facts(inspected: Inspection) -> dict[str, Any]:
    """Return the content of the JSON: the manifest without its tensor lists, and values derived from it."""
    manifest = inspected.manifest
    full = asdict(manifest)
    graphs = {
        name: {
            "file": graph["file"],
            "inputs": len(graph["inputs"]),
            "outputs": len(graph["outputs"]),
            **asdict(inspected.graphs[name]),
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
        "cache_by_length": [asdict(size) for size in inspected.caches],
        "memory": asdict(inspected.memory),
        "file_problems": list(inspected.file_problems),
    }


def table(inspected: Inspection) -> str:
    """Return the inspection as lines of text."""
    manifest = inspected.manifest
    model, image, cache = manifest.model, manifest.image, manifest.cache
    total = sum(spec.bytes for spec in manifest.files.values())
    short = cache_bytes(manifest, short_request_tokens(manifest))
    lines = [
        f"bundle      {manifest.bundle_id}, schema {manifest.schema_version}",
        f"model       {model.family}, {model.parameters:,} parameters, width {model.hidden_size}, "
        f"vocabulary {model.vocab_size:,}, context {model.context_length:,} tokens",
        f"image       {image.size} x {image.size} pixels, {image.tokens:,} tokens",
        f"precision   {manifest.precision.name}, ONNX opset {manifest.precision.opset}, "
        f"for {' and '.join(manifest.precision.devices)}",
        *(f"            {graph} {form}" for graph, form in vars(manifest.precision.matrices).items()),
        f"KV cache    {cache.layers} layers x {cache.heads} heads x {cache.head_dim}: "
        f"{cache_bytes(manifest, 1) / KIB:.0f} KiB per token, "
        f"{short / MIB:.1f} MiB for one image and a short answer",
        f"generation  {_generation_line(manifest)}",
        f"made with   paligemma-onnx {manifest.producer.paligemma_onnx}, torch {manifest.producer.torch}, "
        f"onnx {manifest.producer.onnx}",
        "",
        *(f"{spec.bytes:>16,}  {name}" for name, spec in sorted(manifest.files.items())),
        f"{total:>16,}  bytes in total",
        *(f"note        {problem}; copy the bundle again" for problem in inspected.file_problems),
        *(line for name, graph in inspected.graphs.items() for line in _graph_lines(name, graph)),
        "",
        *_cache_lines(inspected),
        "",
        *_memory_lines(inspected.memory),
    ]
    return "\n".join(map(printable, lines))


def _generation_line(manifest: Manifest) -> str:
    """Return the defaults of `generate` that differ from those of a bundle without settings."""
    defaults = manifest.generation
    unset = GenerationDefaults(defaults.max_new_tokens)
    changed = {name: value for name, value in vars(defaults).items() if value != getattr(unset, name)}
    return ", ".join(
        [f"max_new_tokens {defaults.max_new_tokens}"]
        + [f"{name} {_short(value)}" for name, value in changed.items()]
        + ([] if defaults.temperature else ["greedy"])
    )


def _short(value: object) -> str:
    """Return a value, or the first of many ids and their number."""
    if not isinstance(value, tuple):
        return str(value)
    ids = " ".join(map(str, value[:MAX_IDS]))
    return ids if len(value) <= MAX_IDS else f"{ids} ... ({len(value)} ids)"


def _graph_lines(name: str, graph: GraphContents) -> Iterator[str]:
    """Yield the lines about a graph: size, operators, and matrices by layer."""
    yield ""
    yield (
        f"{name}: {sum(graph.operators.values()):,} nodes, graph {_size(graph.bytes)}, "
        f"weights {_size(graph.weight_bytes)}"
    )
    operators = list(graph.operators.items())
    others = sum(count for _, count in operators[MAX_OPERATORS:])
    names = ", ".join(f"{count} {operator}" for operator, count in operators[:MAX_OPERATORS])
    yield f"    {names}{f', {others} others' if others else ''}"
    for where, layer in spans(graph.matrices):
        bits = " and ".join(map(str, layer.bits))
        matrices = f"{layer.matrices} matrices per layer" if layer.layer is not None else "1 matrix"
        yield f"    {where:<48} {bits:>7} bits  {matrices}, {_size(layer.bytes)}"


def _cache_lines(inspected: Inspection) -> Iterator[str]:
    yield f"{'KV cache, tokens':<16}" + "".join(f"{f'batch {batch}':>12}" for batch in BATCHES)
    sizes = {(size.tokens, size.batch): size.bytes for size in inspected.caches}
    names = {
        short_request_tokens(inspected.manifest): "one image",
        inspected.manifest.model.context_length: "full context",
    }
    for tokens in dict.fromkeys(size.tokens for size in inspected.caches):
        row = "".join(f"{_size(sizes[tokens, batch]):>12}" for batch in BATCHES)
        yield f"{tokens:>15,} {row}   {names.get(tokens, '')}".rstrip()


def _memory_lines(memory: MemoryEstimate) -> Iterator[str]:
    on_gpu = memory.weights == "device"
    device = "GPU" if on_gpu else "CPU"
    yield f"memory      about {_size(memory.total_bytes)} for one request on the {device}:"
    yield f"            {_size(memory.weights_bytes)} weights, {WEIGHTS[memory.weights]}"
    yield f"            {_size(memory.cache_bytes)} KV cache, {_size(memory.other_bytes)} other"
    if memory.machine_bytes is None:
        unknown = "this machine has no GPU" if on_gpu else "the memory of this machine is unknown"
        yield f"            {unknown}"
        return
    free = "" if memory.free_bytes is None else f", {_size(memory.free_bytes)} free"
    fits = "it fits" if memory.fits else "it does not fit"
    if memory.fits and memory.fits_now is False:
        fits = "it fits if other programs release memory"
    owner = "the GPU" if on_gpu else "this machine"
    yield f"            {owner} has {_size(memory.machine_bytes)}{free}: {fits}"


def _size(count: int) -> str:
    """Return a number of bytes as text, in the largest unit in which the number is at least 1."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} bytes"
