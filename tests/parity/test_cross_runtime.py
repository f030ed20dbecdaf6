"""The same graphs in three engines that share no code, against torch.

onnxruntime is what the runtime uses; onnx.reference is the standard spelt out in NumPy; OpenVINO is another
vendor's compiler. Every graph gets torch's inputs, so that an error shows where it arises.
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

Folders = Callable[[str], Path]
Arrays = Sequence[NDArray[Any]]
Graph = Callable[[dict[str, NDArray[Any]]], Arrays]
STEPS = 4
# Share of the tensor's largest value. float32 sums in another order, over 32 to 256 terms and two layers;
# measured: up to 2e-6 for a vision tower, 1e-6 elsewhere. A wrong operator stands above 1e-3.
BOUND = 1e-5


def in_onnxruntime(path: Path) -> Graph:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, inputs)  # type: ignore[no-any-return]


def in_reference(path: Path) -> Graph:
    evaluator = ReferenceEvaluator(str(path))
    return lambda inputs: evaluator.run(None, inputs)  # type: ignore[arg-type,return-value]


def in_openvino(path: Path) -> Graph:
    # It would compute in bfloat16 where the processor can.
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda inputs: list(compiled(inputs).to_tuple())


ENGINES = {"onnxruntime": in_onnxruntime, "onnx.reference": in_reference, "OpenVINO": in_openvino}


@dataclass(frozen=True)
class Question:
    """One run of a graph and what torch says to it."""

    graph: str
    inputs: dict[str, NDArray[Any]]
    expected: list[NDArray[Any]]


def arrays(logits: torch.Tensor, cache: Cache) -> list[NDArray[Any]]:
    return [logits.numpy(), *(tensor.numpy() for layer in cache for tensor in layer)]


@torch.inference_mode()
def questions(model: PaliGemma) -> list[Question]:
    """Two pictures; two rows of different lengths; four steps."""
    random, side = np.random.default_rng(9), model.config.vision_config.image_size
    pixels = random.uniform(-1, 1, (2, 3, side, side)).astype(np.float32)
    features = model.encode_image(torch.from_numpy(pixels))
    asked = [Question("vision_encoder", {"pixel_values": pixels}, [features.numpy()])]

    ids, lengths = random.integers(4, 600, (2, 7)), np.array([7, 4])
    logits, cache = model.prefill(torch.from_numpy(ids), features, torch.from_numpy(lengths))
    inputs = {"input_ids": ids, "image_features": features.numpy(), "text_lengths": lengths}
    asked.append(Question("prefill", inputs, arrays(logits, cache)))

    slots = lengths + features.shape[1]
    for step in range(STEPS):
        ids = random.integers(4, 600, (2, 1))
        inputs = {"input_ids": ids, "past_lengths": slots + step}
        for index, layer in enumerate(cache):
            for kind, tensor in layer._asdict().items():
                inputs[f"past_key_values.{index}.{kind}"] = tensor.numpy()
        logits, cache = model.decode_step(torch.from_numpy(ids), torch.from_numpy(slots + step), cache)
        asked.append(Question("decode", inputs, arrays(logits, cache)))
    return asked


@pytest.mark.parametrize("name", ["gemma_two_kv_heads", "gemma2_window"])
def test_three_engines_agree_with_torch(checkpoint: Folders, bundle: Folders, name: str) -> None:
    asked = questions(load_model(*open_checkpoint(checkpoint(name))))
    worst: dict[str, dict[str, float]] = {}
    for engine, opened in ENGINES.items():
        graphs = {graph: opened(bundle(name) / f"{graph}.onnx") for graph in {one.graph for one in asked}}
        worst[engine] = dict.fromkeys((one.graph for one in asked), 0.0)
        for one in asked:
            answer = graphs[one.graph](one.inputs)
            for ours, theirs in zip(answer, one.expected, strict=True):
                worst[engine][one.graph] = max(worst[engine][one.graph], relative_error(ours, theirs))
    columns = list(dict.fromkeys(one.graph for one in asked))
    print(f"\n{name:<20}" + "".join(f"{column:>16}" for column in columns))
    for engine, errors in worst.items():
        print(f"{engine:<20}" + "".join(f"{errors[column]:>16.1e}" for column in columns))
    for engine, errors in worst.items():
        for graph, error in errors.items():
            assert error <= BOUND, f"{graph} in {engine}: off by {error:.1e} of the largest value"
