"""Structure of the three graphs, read with the onnx library, and their dynamic dimensions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from checkpoints import CASES
from closeness import assert_close

from paligemma_onnx.model.checkpoint.load import load_model, open_checkpoint
from paligemma_onnx.runtime import PaliGemma
from paligemma_onnx.runtime.bundle.manifest import read_manifest
from paligemma_onnx.runtime.cancellation import Cancellation
from paligemma_onnx.runtime.graphs.onnx_runner import OnnxModelRunner

Folders = Callable[[str], Path]
GRAPHS = ("vision_encoder.onnx", "prefill.onnx", "decode.onnx")
DTYPES = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.INT64: "int64"}
EMBEDDING = "language_model.embed_tokens.weight"
MAX_ERROR = 1e-5  # relative to the largest value, float32 in onnxruntime and torch; measured: up to 2.5e-6
every_case = pytest.mark.parametrize("name", CASES)
every_graph = pytest.mark.parametrize("graph", GRAPHS)


@cache
def loaded(path: Path) -> onnx.ModelProto:
    return onnx.load(path, load_external_data=False)


@dataclass(frozen=True)
class Location:
    """Position of an initializer in a weight file."""

    file: str
    offset: int
    length: int


def locations(model: onnx.ModelProto) -> dict[str, Location]:
    by_name = {}
    for tensor in model.graph.initializer:
        if tensor.external_data:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            offset, length = int(entries["offset"]), int(entries["length"])
            by_name[tensor.name] = Location(entries["location"], offset, length)
    return by_name


def inline_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor whose bytes are in the .onnx file."""
    yield from (tensor for tensor in model.graph.initializer if not tensor.external_data)
    for node in model.graph.node:
        for attribute in node.attribute:
            yield from ([attribute.t] if attribute.HasField("t") else attribute.tensors)


@every_case
@every_graph
def test_the_checker_accepts_it(bundle: Folders, name: str, graph: str) -> None:
    onnx.checker.check_model(str(bundle(name) / graph), full_check=True)


@every_case
@every_graph
def test_standard_operators_of_one_opset(bundle: Folders, name: str, graph: str) -> None:
    model = loaded(bundle(name) / graph)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 20)]
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    assert read_manifest(bundle(name)).precision.opset == 20


@every_case
@every_graph
def test_numbers_lie_outside_the_graph(bundle: Folders, name: str, graph: str) -> None:
    model = loaded(bundle(name) / graph)
    sizes = [len(tensor.SerializeToString()) for tensor in inline_tensors(model)]
    assert max(sizes) < 256  # bytes: scalars, axes and shapes
    weights = "vision_encoder.data" if graph == GRAPHS[0] else "decoder.data"
    assert {location.file for location in locations(model).values()} == {weights}
    assert all(
        location.offset + location.length <= (bundle(name) / weights).stat().st_size
        for location in locations(model).values()
    )


@every_case
def test_prefill_and_decode_share_every_weight(bundle: Folders, name: str) -> None:
    prefill, decode = (locations(loaded(bundle(name) / graph)) for graph in GRAPHS[1:])
    assert prefill == decode
    assert len(set(prefill.values())) == len(prefill)
    regions = sorted((location.offset, location.length) for location in prefill.values())
    end = 0
    for offset, length in regions:
        assert end <= offset < end + 4096  # no overlap, and no gap beyond the next page
        end = offset + length
    assert end == (bundle(name) / "decoder.data").stat().st_size


@every_case
def test_the_embedding_is_stored_once(bundle: Folders, checkpoint: Folders, name: str) -> None:
    """One array, although prefill looks up rows in it and both graphs multiply with it as output head."""
    _, source = open_checkpoint(checkpoint(name))
    embedding = source.tensor(EMBEDDING).float().numpy().tobytes()
    for file in bundle(name).iterdir():
        assert file.read_bytes().count(embedding) == (file.name == "decoder.data"), file.name
    assert locations(loaded(bundle(name) / "decode.onnx"))[EMBEDDING].length == len(embedding)


@every_case
def test_every_weight_of_the_model_is_used_by_a_graph(
    bundle: Folders, checkpoint: Folders, name: str
) -> None:
    _, source = open_checkpoint(checkpoint(name))
    used = {weight for graph in GRAPHS for weight in locations(loaded(bundle(name) / graph))}
    assert used - {f"language_model.rotation.{table}" for table in ("cos", "sin")} == set(source.names)


@every_case
def test_inputs_and_outputs_are_the_declared_ones(bundle: Folders, name: str) -> None:
    graphs = read_manifest(bundle(name)).graphs
    for spec in (graphs.vision_encoder, graphs.prefill, graphs.decode):
        model = loaded(bundle(name) / spec.file)
        for declared, actual in ((spec.inputs, model.graph.input), (spec.outputs, model.graph.output)):
            described = [
                (
                    value.name,
                    DTYPES[value.type.tensor_type.elem_type],
                    tuple(size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim),
                )
                for value in actual
            ]
            assert described == [(tensor.name, tensor.dtype, tensor.shape) for tensor in declared]


@every_case
def test_every_graph_carries_the_bundle_id(bundle: Folders, name: str) -> None:
    bundle_id = read_manifest(bundle(name)).bundle_id
    for graph in GRAPHS:
        properties = {entry.key: entry.value for entry in loaded(bundle(name) / graph).metadata_props}
        assert properties == {"paligemma_onnx.bundle_id": bundle_id}


def test_bundles_have_ids_of_their_own(bundle: Folders) -> None:
    ids = defaultdict(list)
    for name in CASES:
        ids[read_manifest(bundle(name)).bundle_id].append(name)
    assert len(ids) == len(CASES)


@every_case
@pytest.mark.parametrize(
    ("rows", "image_tokens", "longest"), [(1, 3, 1), (3, 8, 9), (2, 1, 4), (1, 40, 17), (4, 2, 1)]
)
def test_what_is_declared_to_vary_varies(
    bundle: Folders, checkpoint: Folders, name: str, rows: int, image_tokens: int, longest: int
) -> None:
    """Includes a batch of 1 and the lengths of the traced example, which tracers tend to make constants."""
    runner, never = PaliGemma.load(bundle(name)).runner, Cancellation()
    assert isinstance(runner, OnnxModelRunner)
    model = load_model(*open_checkpoint(checkpoint(name)))
    width, side = runner.manifest.model.hidden_size, runner.manifest.image.size
    random = np.random.default_rng(rows)
    pixels = random.uniform(-1, 1, (rows, 3, side, side)).astype(np.float32)
    expected = model.encode_image(torch.from_numpy(pixels))
    (features,) = runner.vision_session.run(None, {"pixel_values": pixels})
    assert_close("vision", features, expected, MAX_ERROR)
    assert_close("vision, one by one", runner.encode_image(pixels, never), expected, MAX_ERROR)

    ids = random.integers(4, 600, (rows, longest))
    features = random.normal(size=(rows, image_tokens, width)).astype(np.float32)
    lengths = np.array([longest - row % longest for row in range(rows)])
    logits, cache = runner.prefill(ids, features, lengths, image_tokens + longest + 3, never)
    expected, reference = model.prefill(*map(torch.from_numpy, (ids, features, lengths)))
    assert_close("prefill", logits, expected, MAX_ERROR)
    slots = torch.from_numpy(lengths + image_tokens)
    for tokens in (1, 5, 1, 2):
        token = random.integers(4, 600, (rows, tokens))
        logits, cache = runner.decode(token, cache, never)
        assert cache.lengths.tolist() == (slots + tokens).tolist()
        expected, reference = model.decode_step(torch.from_numpy(token), slots, reference)
        assert_close(f"{tokens} tokens", logits, expected, MAX_ERROR)
        slots = slots + tokens
        assert [list(value.shape) for value in cache.values] == [
            list(tensor.shape) for layer in reference for tensor in layer
        ]
