"""Export a checkpoint in a layout of another tool. This module calls the steps of the export in order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from paligemma_onnx.model.skeleton import meta_model
from paligemma_onnx.runtime.bundle.layout_record import (
    LAYOUT_RECORD,
    RECORD_VERSION,
    LayoutGraphs,
    LayoutName,
    LayoutRecord,
    compute_layout_id,
)
from paligemma_onnx.runtime.bundle.schema import BUNDLE_ID_KEY, FileSpec, GraphSpec, Manifest
from paligemma_onnx.runtime.resource_errors import translate_resource_errors
from paligemma_onnx.runtime.text.tokenizer import PromptTokenizer

from ..bundle.atomic_folder import staged_export
from ..bundle.draft_manifest import draft_manifest, export_notes
from ..bundle.tensor_list import count_operators
from ..bundle.weight_file import plan_weight_files, reference_weight_file
from ..exporter import (
    ExportRequest,
    Progress,
    check_request,
    open_request,
    report_non_finite,
    serialize,
    write_file,
    write_weights,
)
from ..graphs.embeds_specs import merged_embedding, separate_embedding
from ..graphs.patch_matmul import multiply_patches
from ..graphs.rotary_tables import tabulate_rotation
from ..graphs.specs import GraphDefinition
from ..graphs.trace import TracedGraph, trace
from ..precisions import MAX_BUFFER_BYTES
from ..quantization.quantize_graph import QuantizedGraph, quantize_graph
from ..quantization.table_pieces import split_tables
from ..source import Source
from . import genai, transformers_js
from .layout import PRECISION_NAMES, check_dtypes, graph_formats, graph_path, ignored_setting, precision_of


@dataclass(frozen=True)
class LayoutRequest:
    """Input, output and options of the export of a layout."""

    export: ExportRequest  # its precision is not used
    layout: LayoutName
    dtypes: tuple[str, ...] = ("fp32",)  # the first is the default of the folder


@dataclass(frozen=True)
class _WrittenGraphs:
    """Graphs of one dtype, whose weights are written."""

    graphs: dict[str, QuantizedGraph]  # by path in the folder
    specs: LayoutGraphs
    files: dict[str, FileSpec]  # the weight files, by path in the folder
    data_files: dict[str, int]  # number of weight files by name of the graph file


def definitions_of(layout: LayoutName, source: Source) -> dict[str, GraphDefinition]:
    """Return the graphs of a layout by name."""
    define = separate_embedding if layout == "transformers.js" else merged_embedding
    return define(source.config)


def export_layout(
    request: LayoutRequest,
    progress: Progress,
    check: Callable[[Path, LayoutRecord, Source], object] | None,
) -> LayoutRecord:
    """Write the folder of a layout and return its record.

    Args:
        request: input, output and options of the export.
        progress: receives the steps and the number of bytes written.
        check: compares the folder with the checkpoint, and raises MismatchError if they differ. The folder
            gets its final name after the check. None: no comparison.

    Raises:
        CheckpointError: the checkpoint is incomplete, damaged or of another model.
        OptionError: the output cannot be written, or a dtype is unknown.
        ResourceError: out of disk space or memory.
        MismatchError: the check failed. No folder is written.
    """
    check_dtypes(request.layout, request.dtypes)
    check_request(request.export)
    progress.stage("reading checkpoint")
    source = open_request(request.export)
    with translate_resource_errors(str(request.export.checkpoint)):
        manifest = draft_manifest(source, "fp32")
    for note in export_notes(source):
        progress.warn(note)
    if ignored := ignored_setting(request.layout, manifest.generation):
        progress.warn(ignored)
    output = request.export.output
    with (
        translate_resource_errors(str(output)),
        staged_export(output, force=request.export.force) as staging,
    ):
        report_non_finite(request.export, source, progress)
        traces = _trace(request.layout, source, progress)
        written = [
            _write_dtype(staging, request, dtype, traces, source, progress) for dtype in request.dtypes
        ]
        progress.stage("writing graphs")
        record = _write_graphs(staging, request, written, source, manifest)
        write_file(staging / LAYOUT_RECORD, record.to_json().encode())
        if check is not None:
            check(staging, record, source)
    return record


def _trace(layout: LayoutName, source: Source, progress: Progress) -> dict[str, TracedGraph]:
    model = meta_model(source.config)
    multiply_patches(model)
    tabulate_rotation(model)
    traces = {}
    for name, definition in definitions_of(layout, source).items():
        progress.stage(f"tracing {name}")
        traces[name] = trace(definition, model)
    return traces


def _write_dtype(
    staging: Path,
    request: LayoutRequest,
    dtype: str,
    traces: dict[str, TracedGraph],
    source: Source,
    progress: Progress,
) -> _WrittenGraphs:
    """Rewrite the graphs for a dtype and write their weight files."""
    layout, precision = request.layout, precision_of(dtype)
    graphs, plans, data_files = dict[str, QuantizedGraph](), [], dict[str, int]()
    definitions, specs = definitions_of(layout, source), list[GraphSpec]()
    folder = (staging / graph_path(layout, "x.onnx", dtype)).parent
    folder.mkdir(exist_ok=True)
    for name, traced in traces.items():
        path = graph_path(layout, f"{name}.onnx", dtype)
        formats = graph_formats(name, precision)
        split = split_tables(traced.copy(), formats.embedding, MAX_BUFFER_BYTES)
        graph = quantize_graph(split, formats.matrices, formats.embedding, portable=True)
        files = plan_weight_files(f"{Path(path).name}_data", [graph], MAX_BUFFER_BYTES, _name_next)
        for plan in files:
            reference_weight_file(graph, plan)
        graphs[path], data_files[Path(path).name] = graph, len(files)
        plans += files
        digest = hashlib.sha256(serialize(graph)).hexdigest()
        operators = count_operators(graph)
        specs.append(replace(definitions[name].spec, file=path, operators=operators, digest=digest))
    weights = source.unpacked_weights(PRECISION_NAMES[dtype])
    stored = write_weights(folder, request.export.output, plans, source, weights, progress)
    parent = Path(next(iter(graphs))).parent
    files_by_path = {(parent / name).as_posix(): spec for name, spec in stored.items()}
    return _WrittenGraphs(graphs, LayoutGraphs(*specs), files_by_path, data_files)


def _name_next(file: str, count: int) -> str:
    """Return the name of the weight file that follows `count` files, as transformers.js expects it."""
    return f"{file}_{count}"


def _write_graphs(
    staging: Path,
    request: LayoutRequest,
    written: list[_WrittenGraphs],
    source: Source,
    manifest: Manifest,
) -> LayoutRecord:
    """Write the settings and the graphs with the id of the layout; return the complete record."""
    tokenizer, tokenizer_json = PromptTokenizer.load(source.tokenizer), source.tokenizer.read_bytes()
    if request.layout == "genai":
        settings = genai.settings_files(source.config, manifest, tokenizer_json)
    else:
        data_files = dict(chain.from_iterable(part.data_files.items() for part in written))
        settings = transformers_js.settings_files(
            source.config, manifest, tokenizer, tokenizer_json, request.dtypes, data_files
        )
    files = dict(chain.from_iterable(part.files.items() for part in written))
    files |= {name: write_file(staging / name, content) for name, content in settings.items()}
    graphs = dict(chain.from_iterable(part.graphs.items() for part in written))
    draft = LayoutRecord(
        RECORD_VERSION,
        "",
        request.layout,
        {dtype: part.specs for dtype, part in zip(request.dtypes, written, strict=True)},
        manifest.model,
        manifest.image,
        manifest.tokens,
        manifest.cache,
        manifest.producer,
        files,
    )
    record = replace(draft, layout_id=compute_layout_id(draft))
    for path, graph in graphs.items():
        graph.model.metadata_props[BUNDLE_ID_KEY] = record.layout_id
        files[path] = write_file(staging / path, serialize(graph))
    return record
