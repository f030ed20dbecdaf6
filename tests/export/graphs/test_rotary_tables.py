"""Rotary tables: the angles of transformers for every position, read by the float32 graphs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from closeness import relative_error
from transformers import GemmaConfig
from transformers.models.gemma.modeling_gemma import GemmaRotaryEmbedding

from paligemma_onnx.export.graphs.rotary_tables import PREFIX, rotation_tables
from paligemma_onnx.export.source import open_source
from paligemma_onnx.model.cache import KeyValue
from paligemma_onnx.model.checkpoint.load import load_model
from paligemma_onnx.model.presets import paligemma_3b

Folders = Callable[[str], Path]
CASE = "gemma_one_kv_head"
BOUND = 1e-5  # relative to the largest value, float32 in onnxruntime and torch


def test_the_tables_are_the_angles_of_transformers() -> None:
    config = paligemma_3b(224).text_config
    cos, sin = (table.numpy() for table in rotation_tables(config).values())
    half = config.head_dim // 2
    assert cos.shape == sin.shape == (8192, half)
    assert cos.nbytes + sin.nbytes == 8 << 20  # small next to the 11.7 GB of the weights
    reference = GemmaRotaryEmbedding(GemmaConfig(head_dim=config.head_dim))
    expected = reference(torch.zeros(1), torch.arange(8192)[None])
    for table, theirs in zip((cos, sin), expected, strict=True):
        np.testing.assert_allclose(table, theirs[0, :, :half].numpy(), rtol=0, atol=1.2e-7)  # one rounding


@pytest.mark.parametrize("graph", ["prefill", "decode"])
def test_float32_graphs_compute_no_angles(bundle: Folders, graph: str) -> None:
    model = onnx.load(bundle(CASE) / f"{graph}.onnx", load_external_data=False)
    assert not {"Cos", "Sin"} & {node.op_type for node in model.graph.node}
    assert {f"{PREFIX}cos", f"{PREFIX}sin"} <= {tensor.name for tensor in model.graph.initializer}


@torch.inference_mode()
def test_the_last_position_of_the_context_equals_torch(bundle: Folders, checkpoint: Folders) -> None:
    source = open_source(checkpoint(CASE))
    text = source.config.text_config
    slots = text.max_position_embeddings - 1
    rng = np.random.default_rng(5)
    shape = 1, text.num_key_value_heads, slots, text.head_dim
    past = [rng.standard_normal(shape).astype(np.float32) for _ in range(2 * text.num_hidden_layers)]
    names = [
        f"past_key_values.{layer}.{part}" for layer in range(len(past) // 2) for part in ("key", "value")
    ]
    session = onnxruntime.InferenceSession(bundle(CASE) / "decode.onnx", providers=["CPUExecutionProvider"])
    inputs = {"input_ids": np.array([[7]]), "past_lengths": np.array([slots])}
    logits = session.run(["logits"], inputs | dict(zip(names, past, strict=True)))[0]
    tensors = [torch.from_numpy(array) for array in past]
    expected, _ = load_model(source.config, source.checkpoint).decode_step(
        *(torch.from_numpy(array) for array in inputs.values()),
        tuple(map(KeyValue, tensors[::2], tensors[1::2])),
    )
    assert relative_error(logits, expected) < BOUND
