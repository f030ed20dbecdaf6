"""The exported graphs in three independent ONNX implementations, compared with torch.

onnxruntime is used by the runtime, onnx.reference implements the standard in NumPy, and OpenVINO is a
compiler from another vendor. Each graph gets the inputs that torch computed, so that an error appears in the
graph that causes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import openvino
import pytest
import torch
from closeness import relative_error
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from paligemma_onnx.model.cache import Cache
from paligemma_onnx.model.checkpoint.load import load_model, open_checkpoint
from paligemma_onnx.model.paligemma import PaliGemma

pytestmark = pytest.mark.slow

Folders = Callable[[str], Path]
Arrays = Sequence[NDArray[Any]]
Graph = Callable[[dict[str, NDArray[Any]]], Arrays]
STEPS = 4
# Largest error relative to the largest value of the tensor. Only the order of float32 sums differs, over 32
# to 256 terms and two layers. Measured: up to 2e-6 for a vision tower, 1e-6 elsewhere. A wrong operator
# gives over 1e-3.
BOUND = 1e-5


def open_onnxruntime(path: Path) -> Graph:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, inputs)  # type: ignore[no-any-return]


def open_reference(path: Path) -> Graph:
    evaluator = ReferenceEvaluator(str(path))
    return lambda inputs: evaluator.run(None, inputs)  # type: ignore[arg-type,return-value]


def open_openvino(path: Path) -> Graph:
    # Without this option OpenVINO uses bfloat16 on processors that support it.
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda inputs: list(compiled(inputs).to_tuple())


IMPLEMENTATIONS = {
    "onnxruntime": open_onnxruntime,
    "onnx.reference": open_reference,
    "OpenVINO": open_openvino,
}


@dataclass(frozen=True)
class GraphCall:
    """Inputs of a graph and the outputs that torch computes for them."""

    graph: str
    inputs: dict[str, NDArray[Any]]
    expected: list[NDArray[Any]]


def arrays(logits: torch.Tensor, cache: Cache) -> list[NDArray[Any]]:
    return [logits.numpy(), *(tensor.numpy() for layer in cache for tensor in layer)]


@torch.inference_mode()
def graph_calls(model: PaliGemma) -> list[GraphCall]:
    """Run two images, a prefill of two rows of different lengths, and four decode steps."""
    rng, side = np.random.default_rng(9), model.config.vision_config.image_size
    pixels = rng.uniform(-1, 1, (2, 3, side, side)).astype(np.float32)
    features = model.encode_image(torch.from_numpy(pixels))
    calls = [GraphCall("vision_encoder", {"pixel_values": pixels}, [features.numpy()])]

    ids, lengths = rng.integers(4, 600, (2, 7)), np.array([7, 4])
    logits, cache = model.prefill(torch.from_numpy(ids), features, torch.from_numpy(lengths))
    inputs = {"input_ids": ids, "image_features": features.numpy(), "text_lengths": lengths}
    calls.append(GraphCall("prefill", inputs, arrays(logits, cache)))

    slots = lengths + features.shape[1]
    for step in range(STEPS):
        ids = rng.integers(4, 600, (2, 1))
        inputs = {"input_ids": ids, "past_lengths": slots + step}
        for index, layer in enumerate(cache):
            for kind, tensor in layer._asdict().items():
                inputs[f"past_key_values.{index}.{kind}"] = tensor.numpy()
        logits, cache = model.decode_step(torch.from_numpy(ids), torch.from_numpy(slots + step), cache)
        calls.append(GraphCall("decode", inputs, arrays(logits, cache)))
    return calls


@pytest.mark.parametrize("name", ["gemma_two_kv_heads", "gemma2_window"])
def test_three_engines_agree_with_torch(checkpoint: Folders, bundle: Folders, name: str) -> None:
    calls = graph_calls(load_model(*open_checkpoint(checkpoint(name))))
    graph_names = list(dict.fromkeys(call.graph for call in calls))
    errors: dict[str, dict[str, float]] = {}
    for implementation, open_graph in IMPLEMENTATIONS.items():
        graphs = {graph: open_graph(bundle(name) / f"{graph}.onnx") for graph in graph_names}
        errors[implementation] = dict.fromkeys(graph_names, 0.0)
        for call in calls:
            outputs = graphs[call.graph](call.inputs)
            for actual, expected in zip(outputs, call.expected, strict=True):
                error = relative_error(actual, expected)
                errors[implementation][call.graph] = max(errors[implementation][call.graph], error)
    print(f"\n{name:<20}" + "".join(f"{graph:>16}" for graph in graph_names))
    for implementation, by_graph in errors.items():
        print(f"{implementation:<20}" + "".join(f"{error:>16.1e}" for error in by_graph.values()))
    for implementation, by_graph in errors.items():
        for graph, error in by_graph.items():
            assert error <= BOUND, f"{graph} in {implementation}: off by {error:.1e} of the largest value"
