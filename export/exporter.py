"""Checkpoint in, bundle out: the order of the work, each step in a module of its own."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import onnx_ir as ir
import torch

from paligemma_onnx.model.checkpoint.checkpoint import find_non_finite
from paligemma_onnx.model.checkpoint.errors import CheckpointError, quote_names
from paligemma_onnx.model.skeleton import meta_model
from paligemma_onnx.runtime.bundle.manifest import MANIFEST, compute_bundle_id
from paligemma_onnx.runtime.bundle.schema import BUNDLE_ID_KEY, TENSOR_TABLE, FileSpec, Graphs, Manifest
from paligemma_onnx.runtime.bundle.tensor_table import TensorTable
from paligemma_onnx.runtime.errors import OptionError, ResourceError
from paligemma_onnx.runtime.resource_errors import resource_problem, translate_resource_errors

from .bundle import manifest_facts as facts
from .bundle.atomic_folder import staged_folder
from .bundle.draft_manifest import draft_manifest
from .bundle.tensor_list import count_operators, list_tensors
from .bundle.weight_file import WeightFile, plan_file, refer, write_file
from .graphs.cuda_weights import cuda_meta_model
from .graphs.patch_matmul import multiply_patches
from .graphs.specs import GraphDefinition, graph_definitions
from .graphs.trace import TracedGraph, trace
from .precisions import PRECISIONS, Precision
from .quantization.quantize_graph import QuantizedGraph, quantize_graph, weight_format
from .source import Source, open_source
from .sources.tensor_source import TensorSource


class Progress(Protocol):
    """Who is told how far an export is."""

    def stage(self, text: str) -> object:
        """What is done from now on."""

    def set_total(self, size: int) -> object:
        """Bytes that will be written."""

    def advance(self, size: int) -> object:
        """Bytes written since the last call."""

    def warn(self, text: str) -> object:
        """Something the user should know, which does not stop the export."""


@dataclass(frozen=True)
class ExportRequest:
    """What to export, and where to."""

    checkpoint: Path
    output: Path
    precision: str = "fp32"
    adapter: Path | None = None
    mask_decoder: Path | None = None  # None: the one that lies beside the checkpoint's weights, if any
    force: bool = False  # replace an existing bundle
    strict: bool = False  # weights that are not finite are an error, not a warning


def export(
    request: ExportRequest, progress: Progress, check: Callable[[Path, Manifest, Source], object] | None
) -> Manifest:
    """Write a bundle.

    Args:
        request: what to export.
        progress: told the stage and the bytes written.
        check: holds the finished bundle against the checkpoint before it gets its name, and raises
            MismatchError if it is not the same model; None trusts it unseen.

    Raises:
        CheckpointError: the checkpoint is incomplete, damaged or of another model.
        OptionError: the output cannot be written, or the precision is unknown.
        ResourceError: out of disk or memory.
        MismatchError: the check failed; nothing is left behind.
    """
    if request.precision not in PRECISIONS:
        raise OptionError(f"precision {request.precision!r} is unknown; choose from {', '.join(PRECISIONS)}")
    precision = PRECISIONS[request.precision]
    for given in (request.checkpoint, request.adapter, request.mask_decoder):
        if given is not None and _overlap(given, request.output):
            raise OptionError(f"{request.output}: lies inside {given} or holds it; choose another --output")
    progress.stage("reading checkpoint")
    with translate_resource_errors(str(request.checkpoint)):
        source = open_source(request.checkpoint, request.adapter, request.mask_decoder)
        manifest = draft_manifest(source, request.precision)
    with (
        translate_resource_errors(str(request.output)),
        staged_folder(request.output, force=request.force) as staging,
    ):
        _report_non_finite(request, source, progress)
        graphs = _graphs(source, precision, progress)
        weights = source.weights(request.precision)
        files = _write_weights(staging, weights, source.constants, graphs, progress)
        progress.stage("writing graphs")
        tokenizer = (source.folder / facts.TOKENIZER).read_bytes()
        (staging / manifest.tokens.file).write_bytes(tokenizer)
        files[manifest.tokens.file] = _file_spec(tokenizer)
        manifest = _write_graphs(staging, replace(manifest, files=files), graphs)
        (staging / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        if check is not None:
            check(staging, manifest, source)
    return manifest


def _overlap(one: Path, other: Path) -> bool:
    """One of the folders is the other, or lies in it."""
    real, place = Path(os.path.realpath(one)), Path(os.path.realpath(other))  # resolve() fails over loops
    return real == place or real in place.parents or place in real.parents


def _graphs(
    source: Source, precision: Precision, progress: Progress
) -> list[tuple[GraphDefinition, QuantizedGraph]]:
    """Each verb's graph, traced once where two verbs are the same, in the precision's arithmetic."""
    config, traces, graphs = source.config, dict[str, TracedGraph](), []
    if precision.half_dtype is None:
        model = meta_model(config)
    else:
        model = cuda_meta_model(config, getattr(torch, precision.half_dtype))
    multiply_patches(model)
    for name, verb in graph_definitions(config, precision, source.mask_decoder).items():
        if verb.name not in traces:
            progress.stage(f"tracing {verb.name}")
            traces[verb.name] = trace(verb, model)
        graphs.append(
            (
                verb,
                quantize_graph(traces[verb.name].copy(), weight_format(precision, name), precision.embedding),
            )
        )
    return graphs


def _report_non_finite(request: ExportRequest, source: Source, progress: Progress) -> None:
    progress.stage("looking for NaN and infinity")
    not_finite = [
        *find_non_finite(source.checkpoint),
        *(name for name, constant in source.constants.items() if not constant.isfinite().all()),
    ]
    if not_finite:
        message = f"{request.checkpoint}: weights hold NaN or infinity: {quote_names(not_finite)}"
        if request.strict:
            raise CheckpointError(message)
        progress.warn(message)


def _write_weights(
    staging: Path,
    weights: TensorSource,
    constants: Mapping[str, torch.Tensor],
    graphs: list[tuple[GraphDefinition, QuantizedGraph]],
    progress: Progress,
) -> dict[str, FileSpec]:
    plans: list[WeightFile] = []
    for file in dict.fromkeys(verb.weight_file for verb, _ in graphs):
        sharing = [laid for verb, laid in graphs if verb.weight_file == file]
        plans.append(plan_file(file, sharing))
        for laid in sharing:
            refer(laid, plans[-1])
    needed, free = sum(plan.length for plan in plans), shutil.disk_usage(staging).free
    if needed > free:
        raise _no_room(staging, needed, free)
    progress.set_total(needed)
    files = {}
    for plan in plans:
        progress.stage(f"writing {plan.file}")
        try:
            files[plan.file] = write_file(plan, staging, weights, constants, progress.advance)
        except OSError as error:  # someone else took the room, or this user may not have so much
            if resource_problem(error) is None:
                raise
            raise _no_room(staging, needed, free) from error
    return files


def _no_room(staging: Path, needed: int, free: int) -> ResourceError:
    return ResourceError(
        f"{staging.parent}: the weights need {needed:,} bytes, {free:,} are free, and no "
        "quota or limit of file sizes may be in the way; free space or choose another --output"
    )


def _write_graphs(
    staging: Path, draft_manifest: Manifest, laid: list[tuple[GraphDefinition, QuantizedGraph]]
) -> Manifest:
    """Write the tensor table and the graphs, which carry the bundle's id, and complete the manifest."""
    by_file = {verb.spec.file: graph for verb, graph in laid}
    specs = draft_manifest.graphs.by_name
    table = TensorTable({name: list_tensors(by_file[spec.file]) for name, spec in specs.items()})
    graphs = {
        name: replace(
            spec,
            operators=count_operators(by_file[spec.file]),
            digest=hashlib.sha256(_serialized(by_file[spec.file])).hexdigest(),
        )
        for name, spec in specs.items()
    }
    content = table.to_json().encode()
    (staging / TENSOR_TABLE).write_bytes(content)
    files = {**draft_manifest.files, TENSOR_TABLE: _file_spec(content)}
    draft_manifest = replace(draft_manifest, graphs=Graphs(**graphs), files=files)
    bundle_id = compute_bundle_id(draft_manifest)
    for verb, graph in laid:
        graph.model.metadata_props[BUNDLE_ID_KEY] = bundle_id
        serialized = _serialized(graph)
        (staging / verb.spec.file).write_bytes(serialized)
        files[verb.spec.file] = _file_spec(serialized)
    return replace(draft_manifest, bundle_id=bundle_id, files=files)


def _serialized(graph: QuantizedGraph) -> bytes:
    serialized: bytes = ir.to_proto(graph.model).SerializeToString(deterministic=True)
    return serialized


def _file_spec(content: bytes) -> FileSpec:
    return FileSpec(len(content), hashlib.sha256(content).hexdigest())
