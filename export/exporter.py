"""Checkpoint in, bundle out: the order of the work, each step in a module of its own."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Protocol

import onnx_ir as ir
import torch

from paligemma_onnx.model.checkpoint.checkpoint import find_non_finite
from paligemma_onnx.model.checkpoint.errors import CheckpointError, listed
from paligemma_onnx.model.skeleton import skeleton
from paligemma_onnx.runtime.bundle.manifest import MANIFEST, identity
from paligemma_onnx.runtime.bundle.schema import BUNDLE_ID_KEY, FileSpec, Graphs, Manifest
from paligemma_onnx.runtime.errors import OptionError, ResourceError
from paligemma_onnx.runtime.resource_errors import resources, shortage

from .bundle import manifest_facts as facts
from .bundle.atomic_folder import staged
from .bundle.draft_manifest import draft
from .bundle.weight_file import WeightFile, plan_file, refer, write_file
from .graphs.cuda_weights import device_skeleton
from .graphs.patch_matmul import multiply_patches
from .graphs.specs import Verb, declare
from .graphs.trace import Traced, trace
from .precisions import PRECISIONS, Precision
from .quantization.quantize_graph import Laid, form_of, lay_out
from .source import Source, open_source
from .sources.tensor_source import TensorSource


class Progress(Protocol):
    """Who is told how far an export is."""

    def stage(self, text: str) -> object:
        """What is done from now on."""

    def total(self, size: int) -> object:
        """Bytes that will be written."""

    def wrote(self, size: int) -> object:
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
    with resources(str(request.checkpoint)):
        source = open_source(request.checkpoint, request.adapter, request.mask_decoder)
        manifest = draft(source, request.precision)
    with resources(str(request.output)), staged(request.output, force=request.force) as staging:
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


def _graphs(source: Source, precision: Precision, progress: Progress) -> list[tuple[Verb, Laid]]:
    """Each verb's graph, traced once where two verbs are the same, in the precision's arithmetic."""
    config, traces, graphs = source.config, dict[str, Traced](), []
    if precision.half is None:
        model = skeleton(config)
    else:
        model = device_skeleton(config, getattr(torch, precision.half))
    multiply_patches(model)
    for name, verb in declare(config, precision, source.mask_decoder).items():
        if verb.name not in traces:
            progress.stage(f"tracing {verb.name}")
            traces[verb.name] = trace(verb, model)
        graphs.append((verb, lay_out(traces[verb.name].copy(), form_of(precision, name), precision.table)))
    return graphs


def _report_non_finite(request: ExportRequest, source: Source, progress: Progress) -> None:
    progress.stage("looking for NaN and infinity")
    not_finite = [
        *find_non_finite(source.checkpoint),
        *(name for name, constant in source.constants.items() if not constant.isfinite().all()),
    ]
    if not_finite:
        message = f"{request.checkpoint}: weights hold NaN or infinity: {listed(not_finite)}"
        if request.strict:
            raise CheckpointError(message)
        progress.warn(message)


def _write_weights(
    staging: Path,
    weights: TensorSource,
    constants: Mapping[str, torch.Tensor],
    graphs: list[tuple[Verb, Laid]],
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
    progress.total(needed)
    files = {}
    for plan in plans:
        progress.stage(f"writing {plan.file}")
        try:
            files[plan.file] = write_file(plan, staging, weights, constants, progress.wrote)
        except OSError as error:  # someone else took the room, or this user may not have so much
            if shortage(error) is None:
                raise
            raise _no_room(staging, needed, free) from error
    return files


def _no_room(staging: Path, needed: int, free: int) -> ResourceError:
    return ResourceError(
        f"{staging.parent}: the weights need {needed:,} bytes, {free:,} are free, and no "
        "quota or limit of file sizes may be in the way; free space or choose another --output"
    )


def _write_graphs(staging: Path, draft: Manifest, laid: list[tuple[Verb, Laid]]) -> Manifest:
    """Name the bundle after all it holds, write that name into every graph, and complete the manifest."""
    digests = {verb.spec.file: hashlib.sha256(_serialized(graph)).hexdigest() for verb, graph in laid}
    graphs = {
        field.name: replace(spec, digest=digests[spec.file])
        for field in fields(draft.graphs)
        if (spec := getattr(draft.graphs, field.name)) is not None
    }
    draft = replace(draft, graphs=Graphs(**graphs))
    bundle_id = identity(draft)
    files = dict(draft.files)
    for verb, graph in laid:
        graph.model.metadata_props[BUNDLE_ID_KEY] = bundle_id
        serialized = _serialized(graph)
        (staging / verb.spec.file).write_bytes(serialized)
        files[verb.spec.file] = _file_spec(serialized)
    return replace(draft, bundle_id=bundle_id, files=files)


def _serialized(graph: Laid) -> bytes:
    serialized: bytes = ir.to_proto(graph.model).SerializeToString(deterministic=True)
    return serialized


def _file_spec(content: bytes) -> FileSpec:
    return FileSpec(len(content), hashlib.sha256(content).hexdigest())
