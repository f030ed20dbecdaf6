"""The record of a layout: reading, and damaged records."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from paligemma_onnx.runtime.bundle.layout_record import (
    LAYOUT_RECORD,
    RECORD_VERSION,
    LayoutGraphs,
    LayoutRecord,
    compute_layout_id,
    read_layout_record,
)
from paligemma_onnx.runtime.bundle.schema import (
    CacheFacts,
    FileSpec,
    GraphSpec,
    ImageFacts,
    ModelFacts,
    Producer,
    TensorSpec,
    TokenFacts,
)
from paligemma_onnx.runtime.errors import BundleError


def make_record() -> LayoutRecord:
    """Return a record with two number formats; q4 is the default."""
    graphs = {
        dtype: LayoutGraphs(
            *(
                GraphSpec(
                    f"onnx/{name}_{dtype}.onnx",
                    (TensorSpec("x", "float32", ("batch_size", 3)),),
                    (TensorSpec("y", "int64", (1,)),),
                    {"MatMul": 2},
                    "digest",
                )
                for name in ("vision", "embedding", "decoder")
            )
        )
        for dtype in ("q4", "fp32")
    }
    files = {spec.file: FileSpec(1, "") for each in graphs.values() for spec in each.by_name.values()}
    record = LayoutRecord(
        RECORD_VERSION,
        "",
        "transformers.js",
        graphs,
        ModelFacts("paligemma2", 1, 2, 3, 4, 30.0, None, 1),
        ImageFacts(28, 4, 1 / 255, (0.5,) * 3, (0.5,) * 3),
        TokenFacts("tokenizer.json", 2, 0, 9, (1,), (9,)),
        CacheFacts(1, 1, 2, "float32", "grow"),
        Producer("0", "0", "0"),
        files,
    )
    return replace(record, layout_id=compute_layout_id(record))


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    record = make_record()
    (tmp_path / LAYOUT_RECORD).write_text(record.to_json(), encoding="utf-8")
    read = read_layout_record(tmp_path)
    assert read == record
    assert read.dtypes == ("q4", "fp32")
    assert read.graphs["fp32"].by_name["decoder"].operators == {"MatMul": 2}


def edit_operators(data: dict[str, Any]) -> None:
    data["graphs"]["fp32"]["decoder"]["operators"]["MatMul"] = 1


def drop_a_file(data: dict[str, Any]) -> None:
    del data["files"]["onnx/embedding_q4.onnx"]


def drop_all_graphs(data: dict[str, Any]) -> None:
    data["graphs"] = {}


def use_an_old_version(data: dict[str, Any]) -> None:
    data["record_version"] = 1


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (edit_operators, "is altered"),
        (drop_a_file, "does not list as files"),
        (drop_all_graphs, "does not list as files"),
        (use_an_old_version, "export again"),
    ],
)
def test_a_damaged_record_is_refused(
    edit: Callable[[dict[str, Any]], None], message: str, tmp_path: Path
) -> None:
    data = json.loads(make_record().to_json())
    edit(data)
    (tmp_path / LAYOUT_RECORD).write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(BundleError, match=message):
        read_layout_record(tmp_path)
