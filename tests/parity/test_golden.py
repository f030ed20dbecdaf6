"""Golden answers: torch, onnxruntime and transformers generate the same ids, alone and in padded batches."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from paths import GOLDEN as FOLDER
from PIL import Image
from transformers_model import transformers_model

from paligemma_onnx.export.demo.shipped_model import shipped_model
from paligemma_onnx.export.validation.torch_runner import open_torch_model
from paligemma_onnx.model.checkpoint.load import open_checkpoint
from paligemma_onnx.runtime import PaliGemma, Request
from training.outliers import OUTLIER_FACTOR, write_with_outliers
from training.tasks import QUESTIONS

# Raised by transformers' processor where it computes labels, which these tests do not use.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

GOLDEN: list[dict[str, Any]] = json.loads((FOLDER / "golden.json").read_text(encoding="utf-8"))
BATCH_SIZE = 8
MAX_NEW_TOKENS = max(len(entry["ids"]) for entry in GOLDEN) + 1
# Each batch mixes kinds of prompts, so that its rows differ in length and finish at different steps.
MIXED = sorted(range(len(GOLDEN)), key=lambda index: (index % 3, index))
BATCHES = [MIXED[start : start + BATCH_SIZE] for start in range(0, len(MIXED) - BATCH_SIZE + 1, BATCH_SIZE)]


@pytest.fixture(scope="module")
def torch_model() -> Iterator[PaliGemma]:
    with shipped_model() as folder:
        yield open_torch_model(folder)


@pytest.fixture(scope="module")
def onnx_model(shipped_bundle: Path) -> PaliGemma:
    return PaliGemma.load(shipped_bundle, device="cpu")


def request(index: int) -> Request:
    return Request(FOLDER / GOLDEN[index]["image"], GOLDEN[index]["prompt"])


def golden_ids(index: int) -> tuple[int, ...]:
    return tuple(GOLDEN[index]["ids"])


def generate(model: PaliGemma, indices: list[int]) -> list[tuple[int, ...]]:
    answers = model.generate_batch([request(index) for index in indices], max_new_tokens=MAX_NEW_TOKENS)
    assert {answer.finish_reason for answer in answers} == {"stop"}
    return [answer.token_ids for answer in answers]


def generate_with_transformers(indices: list[int]) -> list[tuple[int, ...]]:
    model, processor = transformers_model()
    images = [[Image.open(FOLDER / GOLDEN[index]["image"])] for index in indices]
    prompts = ["<image>" + GOLDEN[index]["prompt"] for index in indices]
    inputs = processor(images=images, text=prompts, padding=True, return_tensors="pt")
    answers = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
    eos = model.generation_config.eos_token_id
    rows = answers[:, inputs["input_ids"].shape[1] :].tolist()
    return [tuple(row[: row.index(eos)]) for row in rows]


def test_the_list_has_every_kind() -> None:
    kinds = Counter(entry["kind"] for entry in GOLDEN)
    assert set(kinds) == {"caption", "detect", "segment", *QUESTIONS}
    assert len({entry["image"] for entry in GOLDEN}) >= 4
    assert len(BATCHES) >= 3
    assert all(len({len(golden_ids(index)) for index in batch}) > 3 for batch in BATCHES)


def test_most_answers_are_right() -> None:
    correct = [entry["right"] for entry in GOLDEN if entry["kind"] not in ("detect", "segment")]
    assert sum(correct) >= 0.9 * len(correct)


@pytest.mark.parametrize("index", range(len(GOLDEN)), ids=lambda index: GOLDEN[index]["prompt"][:40])
def test_alone(torch_model: PaliGemma, onnx_model: PaliGemma, index: int) -> None:
    expected = [golden_ids(index)]
    assert generate(onnx_model, [index]) == expected
    assert generate(torch_model, [index]) == expected
    assert generate_with_transformers([index]) == expected


@pytest.mark.parametrize("indices", BATCHES, ids=str)
def test_in_a_padded_batch(torch_model: PaliGemma, onnx_model: PaliGemma, indices: list[int]) -> None:
    expected = [golden_ids(index) for index in indices]
    assert generate(onnx_model, indices) == expected
    assert generate(torch_model, indices) == expected
    assert generate_with_transformers(indices) == expected


def test_the_texts_are_those_of_the_ids(onnx_model: PaliGemma) -> None:
    assert all(onnx_model.tokenizer.decode(entry["ids"]) == entry["text"] for entry in GOLDEN)


def test_outliers_inside_change_no_id(tmp_path: Path) -> None:
    """1 % of the channels have 64 times as large activations, which the next weights scale back."""
    with shipped_model() as folder:
        write_with_outliers(folder, tmp_path / "outliers")
        _, original = open_checkpoint(folder)
    _, scaled = open_checkpoint(tmp_path / "outliers")
    gain = "language_model.layers.0.input_layernorm.weight"
    growth = (1 + scaled.tensor(gain)) / (1 + original.tensor(gain).float())
    assert float(growth.max()) == pytest.approx(OUTLIER_FACTOR)
    model = open_torch_model(tmp_path / "outliers")
    for indices in BATCHES:
        assert generate(model, indices) == [golden_ids(index) for index in indices]
