"""Cache traced graphs on disk, across tests and test runs: tracing is nearly all the time of a small export.

A graph is found by a hash of everything that its trace depends on: the sources and library versions below,
and the traced module with its configuration, parameters, inputs and outputs.
tests/export/graphs/test_trace.py always traces and compares with cached graphs.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import onnx_ir as ir
from paths import ROOT

from paligemma_onnx.export.graphs.specs import GraphDefinition
from paligemma_onnx.export.graphs.trace import TracedGraph, trace
from paligemma_onnx.model.paligemma import PaliGemma

SOURCES = ("model/**/*.py", "export/*.py", "export/graphs/*.py", "runtime/bundle/schema.py")
LIBRARIES = ("torch", "onnx", "onnx-ir", "onnxscript", "numpy")


def trace_with_cache(folder: Path) -> Callable[[GraphDefinition, PaliGemma], TracedGraph]:
    """Return a replacement for `trace` that reads graphs from a folder and adds those that are missing."""
    digest = hashlib.sha256(str([version(library) for library in LIBRARIES]).encode())
    for file in sorted(file for pattern in SOURCES for file in ROOT.glob(pattern)):
        digest.update(file.read_bytes())

    def cached(definition: GraphDefinition, model: PaliGemma) -> TracedGraph:
        module = definition.module(model)
        tensors = [(name, tensor.shape, tensor.dtype) for name, tensor in module.state_dict().items()]
        key = digest.copy()
        key.update(repr((definition.name, definition.spec, definition.opset, model.config)).encode())
        key.update(repr((module, tensors)).encode())
        file = folder / f"{key.hexdigest()}.onnx"
        if not file.exists():
            _write(file, trace(definition, model))
        return _read(file)

    return cached


def _write(file: Path, traced: TracedGraph) -> None:
    model = traced.model
    model.metadata_props["transposed_weights"] = json.dumps(sorted(traced.transposed_weights))
    for name, value in model.graph.initializers.items():
        if value.const_value is None:  # a weight: only initializers with a value are serialised
            value.const_value = ir.ExternalTensor("weights", 0, 0, value.dtype, shape=value.shape, name=name)
    partial = file.with_suffix(f".{os.getpid()}")  # other test processes never see an incomplete file
    partial.write_bytes(ir.to_proto(model).SerializeToString())
    partial.replace(file)


def _read(file: Path) -> TracedGraph:
    model = ir.load(file)
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = None
    return TracedGraph(model, frozenset(json.loads(model.metadata_props.pop("transposed_weights"))))
