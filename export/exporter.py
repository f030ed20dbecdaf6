"""Export a checkpoint as a bundle. This module calls the steps of the export in order."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Protocol

import onnx_ir as ir
import torch

from paligemma_onnx.model.checkpoint.adapter import Adapter, WeightedAdapter
from paligemma_onnx.model.checkpoint.checkpoint import find_non_finite
from paligemma_onnx.model.checkpoint.errors import CheckpointError, quote_names
from paligemma_onnx.model.config import PaliGemmaConfig
from paligemma_onnx.model.skeleton import meta_model
from paligemma_onnx.runtime.bundle.manifest import MANIFEST, compute_bundle_id
from paligemma_onnx.runtime.bundle.schema import (
    BUNDLE_ID_KEY,
    TENSOR_TABLE,
    BaseWeights,
    FileSpec,
    Graphs,
    Manifest,
)
from paligemma_onnx.runtime.bundle.tensor_table import TensorTable
from paligemma_onnx.runtime.errors import OptionError, ResourceError
from paligemma_onnx.runtime.resource_errors import resource_problem, translate_resource_errors

from .bundle.atomic_folder import staged_export
from .bundle.draft_manifest import draft_manifest, export_notes
from .bundle.tensor_list import count_operators, list_tensors
from .bundle.weight_file import WeightFile, plan_weight_files, reference_weight_file, write_weight_file
from .graphs.cuda_weights import cuda_meta_model
from .graphs.packed_weights import pack_decoder
from .graphs.patch_matmul import multiply_patches
from .graphs.rotary_tables import tabulate_rotation
from .graphs.specs import GraphDefinition, graph_definitions
from .graphs.trace import TracedGraph, trace
from .precisions import PRECISIONS, Precision
from .quantization.quantize_graph import QuantizedGraph, quantize_graph, weight_format
from .source import Source, open_source
from .sources.tensor_source import TensorSource


class Progress(Protocol):
    """Receiver of the progress of an export."""

    def stage(self, text: str) -> object:
        """Announce the step that starts now."""

    def set_total(self, size: int) -> object:
        """Set the number of bytes that will be written."""

    def advance(self, size: int) -> object:
        """Add to the number of bytes written."""

    def warn(self, text: str) -> object:
        """Report a problem that does not stop the export."""


@dataclass(frozen=True)
class ExportRequest:
    """Input, output and options of an export."""

    checkpoint: Path  # folder, or JAX checkpoint in an .npz archive
    output: Path  # folder of the bundle
    precision: str = "fp32"  # a key of PRECISIONS
    adapters: tuple[WeightedAdapter, ...] = ()  # LoRA adapters that are merged into the weights
    base_weights: BaseWeights = "stored"  # what linear layers are rounded to before the merge
    mask_decoder: Path | None = None  # None: mask_decoder.npz in the checkpoint's folder, if it exists
    tokenizer: Path | None = None  # tokenizer.json of an .npz archive
    config: Path | None = None  # config.json of an .npz archive; None: derived from the shapes of its arrays
    force: bool = False  # replace an existing bundle at `output`
    strict: bool = False  # a weight that is not finite raises an error instead of a warning


def export(
    request: ExportRequest, progress: Progress, check: Callable[[Path, Manifest, Source], object] | None
) -> Manifest:
    """Write a bundle and return its manifest.

    Args:
        request: input, output and options of the export.
        progress: receives the steps and the number of bytes written.
        check: compares the finished bundle with the checkpoint, and raises MismatchError if bundle and
            checkpoint differ. The bundle gets its final name after the check. None: no comparison.

    Returns:
        The manifest of the bundle.

    Raises:
        CheckpointError: the checkpoint is incomplete, damaged or of another model.
        OptionError: the output cannot be written, or the precision is unknown.
        ResourceError: out of disk space or memory.
        MismatchError: the check failed. No bundle is written.
    """
    check_request(request)
    precision = PRECISIONS[request.precision]
    progress.stage("reading checkpoint")
    source = open_request(request)
    with translate_resource_errors(str(request.checkpoint)):
        manifest = draft_manifest(source, request.precision)
    for note in export_notes(source):
        progress.warn(note)
    with (
        translate_resource_errors(str(request.output)),
        staged_export(request.output, force=request.force) as staging,
    ):
        report_non_finite(request, source, progress)
        definitions = graph_definitions(source.config, precision, source.mask_decoder)
        graphs = _build_graphs(source.config, precision, definitions, progress)
        plans = _plan_weight_files(definitions, graphs, precision.max_file_bytes)
        weights = source.weights(request.precision)
        files = write_weights(staging, request.output, plans, source, weights, progress)
        progress.stage("writing graphs")
        files[manifest.tokens.file] = write_file(
            staging / manifest.tokens.file, source.tokenizer.read_bytes()
        )
        manifest = _write_graphs(staging, replace(manifest, files=files), graphs)
        write_file(staging / MANIFEST, manifest.to_json().encode())
        if check is not None:
            check(staging, manifest, source)
    return manifest


def open_request(request: ExportRequest) -> Source:
    """Return the open checkpoint of a request.

    Raises:
        CheckpointError: the checkpoint is incomplete, damaged or of another model.
        OptionError: options that do not suit the checkpoint.
    """
    with translate_resource_errors(str(request.checkpoint)):
        return open_source(
            request.checkpoint,
            request.adapters,
            request.mask_decoder,
            request.tokenizer,
            request.config,
            request.base_weights,
        )


def check_request(request: ExportRequest) -> None:
    """Raise OptionError if the precision is unknown or the output overlaps an input."""
    if request.precision not in PRECISIONS:
        raise OptionError(f"precision {request.precision!r} is unknown; choose from {', '.join(PRECISIONS)}")
    output = _real_path(request.output)
    adapters = (adapter.folder for adapter in request.adapters)
    options = (request.mask_decoder, request.tokenizer, request.config)
    for path in filter(None, (request.checkpoint, *adapters, *options)):
        real_path = _real_path(path)
        if real_path == output or real_path in output.parents or output in real_path.parents:
            raise OptionError(f"{request.output}: lies inside {path} or contains it; choose another --output")


def _real_path(path: Path) -> Path:
    return Path(os.path.realpath(path))  # Path.resolve() fails on a loop of links


def report_non_finite(request: ExportRequest, source: Source, progress: Progress) -> None:
    """Warn about weights that contain NaN or infinity; raise CheckpointError if the request is strict."""
    progress.stage("looking for NaN and infinity")
    checkpoint = source.checkpoint
    merged = find_non_finite(checkpoint)
    stored = replace(checkpoint, adapter=Adapter({}))
    adapted = set(merged) & checkpoint.adapter.changes.keys()
    by_adapter = adapted - set(find_non_finite(stored, adapted))
    others = [
        *(name for name in merged if name not in by_adapter),
        *(name for name, constant in source.constants.items() if not constant.isfinite().all()),
    ]
    adapters = ", ".join(str(adapter.folder) for adapter in request.adapters)
    for origin, names in ((str(request.checkpoint), others), (adapters, by_adapter)):
        if not names:
            continue
        part = "the adapter makes these weights" if names is by_adapter else "weights contain"
        message = f"{origin}: {part} NaN or infinity: {quote_names(names)}"
        if request.strict:
            raise CheckpointError(message)
        progress.warn(message)


def _build_graphs(
    config: PaliGemmaConfig,
    precision: Precision,
    definitions: dict[str, GraphDefinition],
    progress: Progress,
) -> dict[str, QuantizedGraph]:
    """Return each graph, traced and rewritten for the precision; equal definitions are traced only once."""
    half = precision.half_dtype
    model = meta_model(config) if half is None else cuda_meta_model(config, getattr(torch, half))
    if precision.is_in_place_float32:
        pack_decoder(model.language_model)
    multiply_patches(model)
    if precision.portable:
        tabulate_rotation(model)
    traces: dict[str, TracedGraph] = {}
    graphs = {}
    for name, definition in definitions.items():
        if definition.name not in traces:
            progress.stage(f"tracing {definition.name}")
            traces[definition.name] = trace(definition, model)
        traced = traces[definition.name].copy()
        matrices = weight_format(precision, name)
        graphs[name] = quantize_graph(traced, matrices, precision.embedding, portable=precision.portable)
    return graphs


def _plan_weight_files(
    definitions: dict[str, GraphDefinition], graphs: dict[str, QuantizedGraph], max_bytes: int | None
) -> list[WeightFile]:
    """Return a plan that gives every weight a position in a file; make the graphs refer to the positions."""
    plans: list[WeightFile] = []
    for file in dict.fromkeys(definition.weight_file for definition in definitions.values()):
        sharing = [graphs[name] for name, definition in definitions.items() if definition.weight_file == file]
        files = plan_weight_files(file, sharing, max_bytes)
        for graph, plan in product(sharing, files):
            reference_weight_file(graph, plan)
        plans += files
    return plans


def write_weights(
    staging: Path,
    output: Path,
    plans: list[WeightFile],
    source: Source,
    weights: TensorSource,
    progress: Progress,
) -> dict[str, FileSpec]:
    """Write the weight files, and return their sizes and digests by file name.

    Args:
        staging: folder to write to.
        output: folder of the finished export, which messages name.
        plans: positions of the tensors in each file.
        source: provides the constants.
        weights: provides the weights.
        progress: receives the number of bytes written.

    Raises:
        ResourceError: the disk is full or a limit of file sizes is reached.
    """
    needed, free, files = sum(plan.length for plan in plans), shutil.disk_usage(staging).free, {}
    too_large = ResourceError(
        f"{output}: the weights need {needed:,} bytes, {free:,} bytes are free and a quota or limit "
        "of file sizes may apply; free space or choose another --output"
    )
    if needed > free:
        raise too_large
    progress.set_total(needed)
    for plan in plans:
        progress.stage(f"writing {plan.file}")
        try:
            files[plan.file] = write_weight_file(plan, staging, weights, source.constants, progress.advance)
        except OSError as error:  # another program filled the disk, or a limit applies
            if resource_problem(error) is None:
                raise
            raise too_large from error
    return files


def _write_graphs(staging: Path, draft: Manifest, graphs: dict[str, QuantizedGraph]) -> Manifest:
    """Write the tensor list, and the graphs with the id of the bundle; return the complete manifest."""
    specs = draft.graphs.by_name
    table = TensorTable({name: list_tensors(graphs[name]) for name in specs})
    files = draft.files | {TENSOR_TABLE: write_file(staging / TENSOR_TABLE, table.to_json().encode())}
    complete_specs = {
        name: replace(
            spec,
            operators=count_operators(graphs[name]),
            digest=hashlib.sha256(serialize(graphs[name])).hexdigest(),
        )
        for name, spec in specs.items()
    }
    manifest = replace(draft, graphs=Graphs(**complete_specs), files=files)
    bundle_id = compute_bundle_id(manifest)
    for name, spec in specs.items():
        graphs[name].model.metadata_props[BUNDLE_ID_KEY] = bundle_id
        files[spec.file] = write_file(staging / spec.file, serialize(graphs[name]))
    return replace(manifest, bundle_id=bundle_id, files=files)


def serialize(graph: QuantizedGraph) -> bytes:
    """Return the bytes of a graph file; equal graphs give equal bytes."""
    serialized: bytes = ir.to_proto(graph.model).SerializeToString(deterministic=True)
    return serialized


def write_file(path: Path, content: bytes) -> FileSpec:
    """Write a file and return its size and digest."""
    path.write_bytes(content)
    return FileSpec(len(content), hashlib.sha256(content).hexdigest())
