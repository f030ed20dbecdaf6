"""Embeddings and output heads that are larger than a file may be are stored in pieces of rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from exporting import export_layout_checked

from paligemma_onnx.export.exporter import ExportRequest
from paligemma_onnx.export.layouts import write_layout
from paligemma_onnx.export.layouts.write_layout import LayoutRequest

CASE = "gemma2_window"
NAMES = ("embed_tokens", "decoder_model_merged")


@pytest.mark.slow
def test_pieces_compute_the_same_bits(
    layout: Callable[[str, str, str], Path],
    checkpoint: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = layout(CASE, "transformers.js", "fp32") / "onnx"
    (table,) = (
        each
        for each in onnx.load(whole / "embed_tokens.onnx", load_external_data=False).graph.initializer
        if each.data_location == onnx.TensorProto.EXTERNAL
    )
    rows, width = table.dims
    limit = rows * width * 4 * 2 // 5  # float32 needs three pieces, float16 two
    monkeypatch.setattr(write_layout, "MAX_BUFFER_BYTES", limit)
    request = ExportRequest(checkpoint(CASE), tmp_path / "split")
    record = export_layout_checked(LayoutRequest(request, "transformers.js", ("fp32", "fp16")))
    assert max(spec.bytes for name, spec in record.files.items() if "embed_tokens" in name) <= limit
    decoder = onnx.load(tmp_path / "split" / "onnx" / "decoder_model_merged.onnx", load_external_data=False)
    large = {each.name for each in decoder.graph.initializer if 4 * np.prod(each.dims) > limit}
    assert large == {f"language_model.rotation.{name}" for name in ("cos", "sin")}  # no tables of tokens
    config = json.loads((tmp_path / "split" / "config.json").read_text(encoding="utf-8"))
    counts = config["transformers.js_config"]["use_external_data_format"]
    assert (counts["embed_tokens.onnx"], counts["embed_tokens_fp16.onnx"]) == (3, 2)

    split = tmp_path / "split" / "onnx"
    embed, decode = (
        [onnxruntime.InferenceSession(folder / f"{name}.onnx") for folder in (whole, split)] for name in NAMES
    )
    ids = np.random.default_rng(0).permutation(rows)[None]
    embeds, pieces = (session.run(None, {"input_ids": ids})[0] for session in embed)
    np.testing.assert_array_equal(embeds, pieces)
    for outside in (rows, -rows - 1):
        with pytest.raises(Exception, match="out of data bounds"):
            embed[1].run(None, {"input_ids": np.array([[outside]])})
    positions = np.arange(7)[None]
    feeds = {
        "inputs_embeds": embeds[:, :7],
        "attention_mask": np.ones_like(positions),
        "position_ids": positions,
    }
    for spec in decode[0].get_inputs()[3:]:
        feeds[spec.name] = np.zeros((1, spec.shape[1], 0, spec.shape[3]), np.float32)
    for expected, actual in zip(*(session.run(None, feeds) for session in decode), strict=True):
        np.testing.assert_array_equal(actual, expected)
