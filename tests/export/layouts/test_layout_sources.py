"""Layouts of checkpoints with an adapter, and of JAX checkpoints. Each export compares itself with torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from checkpoints import CASES, make_model
from exporting import export_layout_checked
from jax_archive import jax_arrays, read_tensors, write_npz

from paligemma_onnx.export.exporter import ExportRequest
from paligemma_onnx.export.layouts.write_layout import LayoutRequest
from paligemma_onnx.model.checkpoint.adapter import WeightedAdapter

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings:UserWarning"),
]
CASE = "gemma_one_kv_head"


def test_adapter_of_the_embedding(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """The adapter makes embedding and output head differ, and both are stored with their changes."""
    import peft

    torch.manual_seed(5)
    options = peft.LoraConfig(r=4, lora_alpha=4, init_lora_weights=False, target_modules=["embed_tokens"])
    with pytest.warns(UserWarning, match="save_embedding_layers"):
        peft.get_peft_model(make_model(CASES[CASE]), options).save_pretrained(tmp_path / "adapter")
    adapters = (WeightedAdapter(tmp_path / "adapter"),)
    request = ExportRequest(checkpoint(CASE), tmp_path / "layout", adapters=adapters)
    export_layout_checked(LayoutRequest(request, "transformers.js", ("fp32", "q4")))
    graph = onnx.load(tmp_path / "layout/onnx/decoder_model_merged.onnx", load_external_data=False).graph
    assert "language_model.lm_head.weight" in {tensor.name for tensor in graph.initializer}


def test_jax_checkpoint(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    folder = checkpoint(CASE)
    sizes = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    path = write_npz(tmp_path / "model.npz", jax_arrays(read_tensors(folder), sizes))
    files = {"tokenizer": folder / "tokenizer.json", "config": folder / "config.json"}
    request = ExportRequest(path, tmp_path / "layout", **files)
    record = export_layout_checked(LayoutRequest(request, "genai"))
    assert "genai_config.json" in record.files
