"""The `inspect` command: contents of graphs, sizes of KV caches, and the memory estimate."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import onnx
import pytest
from command_line import run_in_process
from damage import copy_folder, flip_bit
from paths import ROOT

from paligemma_onnx.runtime.bundle.manifest import read_manifest
from paligemma_onnx.runtime.bundle.schema import FileSpec, Manifest
from paligemma_onnx.runtime.bundle.tensor_table import TensorTable, read_tensor_table
from paligemma_onnx.runtime.diagnostics import machine
from paligemma_onnx.runtime.diagnostics.graph_summary import spans, summarize_graphs
from paligemma_onnx.runtime.diagnostics.inspect import inspect_bundle, table
from paligemma_onnx.runtime.diagnostics.machine import Machine, this_machine
from paligemma_onnx.runtime.diagnostics.memory_estimate import estimate_memory

Folders = Callable[[str], Path]
CASE = "gemma_one_kv_head"
MEASURED = ROOT / "benchmarks" / "measured" / "paligemma-224-zen3.json"
KEYS = {
    *("schema_version", "bundle_id", "model", "image", "tokens", "cache", "graphs", "precision"),
    *("generation", "producer", "files", "total_bytes", "cache_bytes_per_token", "cache_bytes_full_context"),
}
GB = 10**9
LAYERED = ("vision_encoder", "prefill", "decode")  # graphs with layers, of which the case has two


@pytest.fixture
def manifest(bundle: Folders) -> Manifest:
    return read_manifest(bundle(CASE))


def test_json(bundle: Folders, capsys: pytest.CaptureFixture[str]) -> None:
    folder = bundle(CASE)
    result = run_in_process(capsys, "inspect", folder, "--json")
    inspected: Any = json.loads(result.out)
    assert inspected.keys() == KEYS | {"cache_by_length", "memory", "file_problems"}
    expected = json.loads((folder / "manifest.json").read_text())["graphs"]
    for name, graph in inspected["graphs"].items():
        model = onnx.load(folder / f"{name}.onnx", load_external_data=False)
        assert graph["file"] == f"{name}.onnx"
        assert (graph["inputs"], graph["outputs"]) == (len(model.graph.input), len(model.graph.output))
        assert sum(graph["operators"].values()) == len(model.graph.node)
        assert graph["bytes"] == (folder / f"{name}.onnx").stat().st_size
        if name in LAYERED:
            assert {matrices["layer"] for matrices in graph["matrices"]} == {0, 1, None}
        assert all(matrices["bits"] == [32] for matrices in graph["matrices"])
    assert inspected["graphs"].keys() == expected.keys()
    text = run_in_process(capsys, "inspect", folder).out
    for words in (
        "vision_encoder: ",
        "language_model.layers.0-1",
        "32 bits",
        "full context",
        "mapped from the bundle's files",
    ):
        assert words in text


def test_what_a_graph_reads(bundle: Folders, manifest: Manifest) -> None:
    """The vision graph's weight file, which no other graph reads, without the padding between tensors."""
    folder = bundle(CASE)
    contents = summarize_graphs(folder, manifest, read_tensor_table(folder, manifest))["vision_encoder"]
    model = onnx.load(folder / "vision_encoder.onnx")  # with external data
    total = sum(onnx.numpy_helper.to_array(tensor).nbytes for tensor in model.graph.initializer)
    inside = onnx.load(folder / "vision_encoder.onnx", load_external_data=False).graph.initializer
    inline = sum(onnx.numpy_helper.to_array(tensor).nbytes for tensor in inside if not tensor.external_data)
    assert contents.weight_bytes == total - inline


@pytest.mark.parametrize("precision", ["int4", "int8"])
def test_bits_by_layer(rounded: Callable[[str, str], Path], precision: str) -> None:
    """Compare with the attributes of the operators, from which the tensor table is not made."""
    folder = rounded(CASE, precision)
    manifest = read_manifest(folder)
    summary = summarize_graphs(folder, manifest, read_tensor_table(folder, manifest))
    for name in LAYERED:
        contents = summary[name]
        expected = dict[int | None, set[int]]()
        counts = dict[int | None, int]()
        for node in onnx.load(folder / f"{name}.onnx", load_external_data=False).graph.node:
            if node.op_type not in ("MatMulNBits", "DynamicQuantizeMatMul"):
                continue
            bits = next((entry.i for entry in node.attribute if entry.name == "bits"), 8)
            parts = node.input[1].split(".")
            layer = int(parts[parts.index("layers") + 1]) if "layers" in parts else None
            expected.setdefault(layer, set()).add(bits)
            counts[layer] = counts.get(layer, 0) + 1
        layers = {group.layer: group for group in contents.matrices if group.layer is not None}
        assert set(layers) == set(expected) - {None} == {0, 1}
        for layer, group in layers.items():
            assert set(group.bits) == expected[layer]
            assert group.matrices == counts[layer]
        assert next(name for name, _ in spans(contents.matrices)).endswith("layers.0-1")


def test_a_cache_is_as_large_as_its_tensors(bundle: Folders, manifest: Manifest) -> None:
    """Compare with the cache shapes that the outputs of the decode graph declare."""
    inspected = inspect_bundle(bundle(CASE), manifest)
    model = onnx.load(bundle(CASE) / "decode.onnx", load_external_data=False)
    shapes = [
        [axis.dim_value or axis.dim_param for axis in output.type.tensor_type.shape.dim]
        for output in model.graph.output[1:]
    ]
    slot = sum(prod(size for size in shape if isinstance(size, int)) for shape in shapes) * 4
    image = manifest.image.tokens + 64
    assert {(size.tokens, size.batch): size.bytes for size in inspected.caches} == {
        (tokens, batch): tokens * batch * slot for tokens in (image, 1024, 4096, 8192) for batch in (1, 8)
    }


@pytest.mark.parametrize("precision", ["int4", "int8", "int4-compact"])
def test_the_estimate_is_what_was_measured(manifest: Manifest, precision: str) -> None:
    """At least the measured peak of a process (proportional set size) with a 3B bundle, at most 15 % more."""
    measured = json.loads(MEASURED.read_text())["contenders"][precision]
    folder = {"int4": 3_756_690_854, "int8": 2_970_000_000, "int4-compact": 1_770_000_000}[
        precision
    ]  # README
    large = replace(
        manifest,
        files={"all": FileSpec(folder, "")},
        precision=replace(
            manifest.precision, matrices=replace(manifest.precision.matrices, decode=precision)
        ),
        cache=replace(manifest.cache, layers=18, heads=1, head_dim=256, update="in_place"),
        image=replace(manifest.image, tokens=256),
        model=replace(manifest.model, vision_heads=16),
    )
    estimate = estimate_memory(large, TensorTable({}), this_machine(), prepared=False)
    assert estimate.weights == "packed"
    assert 1.0 <= estimate.total_bytes / measured["peak"]["proportional"] <= 1.15


def test_attention_in_tiles_needs_less_memory_for_scores(manifest: Manifest) -> None:
    estimates = {}
    for operator in ("Softmax", "com.microsoft.MultiHeadAttention"):
        vision = replace(manifest.graphs.vision_encoder, operators={operator: 27})
        large = replace(
            manifest,
            graphs=replace(manifest.graphs, vision_encoder=vision),
            image=replace(manifest.image, tokens=4096),
            model=replace(manifest.model, vision_heads=16),
        )
        estimates[operator] = estimate_memory(large, TensorTable({}), this_machine(), prepared=False)
    whole, tiled = (estimate.total_bytes for estimate in estimates.values())
    assert whole - tiled == 16 * 4096**2 * 4


@pytest.mark.parametrize(
    ("total", "free", "words"),
    [
        (64 * GB, 32 * GB, "it fits"),
        (64 * GB, 1, "it fits if other programs release memory"),
        (1, 1, "it does not fit"),
        (None, None, "is unknown"),
        (64 * GB, None, "this machine has 64.0 GB: it fits"),
    ],
)
def test_whether_it_fits(
    bundle: Folders,
    manifest: Manifest,
    monkeypatch: pytest.MonkeyPatch,
    total: int | None,
    free: int | None,
    words: str,
) -> None:
    host = Machine("Linux", "CPU", 2, total, free)
    monkeypatch.setattr("paligemma_onnx.runtime.diagnostics.inspect.this_machine", lambda: host)
    inspected = inspect_bundle(bundle(CASE), manifest)
    assert words in table(inspected)
    assert inspected.memory.fits is (None if total is None else total > 1)


def test_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "memory_limit", lambda: None)
    host = this_machine()
    assert host.memory_bytes == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert host.free_bytes is not None
    assert 0 < host.free_bytes < host.memory_bytes
    assert host.processor
    monkeypatch.setattr(machine, "memory_limit", lambda: 1_000_000)
    assert (this_machine().memory_bytes, this_machine().free_bytes) == (1_000_000, 1_000_000)


def test_an_altered_graph(bundle: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copy_folder(bundle(CASE), tmp_path / "bundle")
    flip_bit(folder / "prefill.onnx")
    result = run_in_process(capsys, "inspect", folder)
    assert (result.code, result.out) == (4, "")
    assert "prefill.onnx is altered" in result.error
    (folder / "prefill.onnx").unlink()
    assert "prefill.onnx is missing" in run_in_process(capsys, "inspect", folder).error


def test_without_an_engine(
    rounded: Callable[[str, str], Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`inspect` works without onnxruntime, which it needs only to find prepared graphs."""
    folder = rounded(CASE, "int4")
    with_engine = run_in_process(capsys, "inspect", folder).out
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    without_engine = run_in_process(capsys, "inspect", folder)
    assert without_engine.code == 0
    assert "private to the process" in without_engine.out
    assert without_engine.out.splitlines()[:20] == with_engine.splitlines()[:20]
