"""The golden run: torch, onnxruntime and transformers say the same ids, alone and in a padded batch of 8."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from paths import GOLDEN
from PIL import Image
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from paligemma_onnx.export.demo.shipped_model import shipped_model
from paligemma_onnx.export.validation.torch_runner import open_torch_model
from paligemma_onnx.model.checkpoint.load import open_checkpoint
from paligemma_onnx.runtime import PaliGemma, Request
from training.outliers import OUTLIER_FACTOR, write_with_outliers
from training.tasks import QUESTIONS

# transformers' processor, when it makes labels nobody asked for.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

FOLDER = GOLDEN
GOLDEN: list[dict[str, Any]] = json.loads((FOLDER / "golden.json").read_text(encoding="utf-8"))
BATCH = 8
MOST = max(len(entry["ids"]) for entry in GOLDEN) + 1
# Prompts of different kinds stand side by side in a batch, so that rows differ in length and end apart.
MIXED = sorted(range(len(GOLDEN)), key=lambda index: (index % 3, index))
BATCHES = [MIXED[start : start + BATCH] for start in range(0, len(MIXED) - BATCH + 1, BATCH)]


@pytest.fixture(scope="module")
def torch_model() -> Iterator[PaliGemma]:
    with shipped_model() as folder:
        yield open_torch_model(folder)


@pytest.fixture(scope="module")
def onnx_model(shipped_bundle: Path) -> PaliGemma:
    return PaliGemma.load(shipped_bundle, device="cpu")


@cache
def transformers_model() -> tuple[Any, Any]:
    with shipped_model() as folder:
        model = transformers.PaliGemmaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, padding_side="left")
        images = SiglipImageProcessorPil.from_pretrained(folder)
    return model.eval(), transformers.PaliGemmaProcessor(images, tokenizer)


def request(index: int) -> Request:
    return Request(FOLDER / GOLDEN[index]["image"], GOLDEN[index]["prompt"])


def golden_ids(index: int) -> tuple[int, ...]:
    return tuple(GOLDEN[index]["ids"])


def ask(model: PaliGemma, chosen: list[int]) -> list[tuple[int, ...]]:
    answers = model.generate_batch([request(index) for index in chosen], max_new_tokens=MOST)
    assert {answer.finish_reason for answer in answers} == {"stop"}
    return [answer.token_ids for answer in answers]


def ask_transformers(chosen: list[int]) -> list[tuple[int, ...]]:
    model, processor = transformers_model()
    pictures = [[Image.open(FOLDER / GOLDEN[index]["image"])] for index in chosen]
    prompts = ["<image>" + GOLDEN[index]["prompt"] for index in chosen]
    inputs = processor(images=pictures, text=prompts, padding=True, return_tensors="pt")
    answers = model.generate(**inputs, max_new_tokens=MOST, do_sample=False)
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
    texts = [entry["right"] for entry in GOLDEN if entry["kind"] not in ("detect", "segment")]
    assert sum(texts) >= 0.9 * len(texts)


@pytest.mark.parametrize("index", range(len(GOLDEN)), ids=lambda index: GOLDEN[index]["prompt"][:40])
def test_alone(torch_model: PaliGemma, onnx_model: PaliGemma, index: int) -> None:
    expected = [golden_ids(index)]
    assert ask(onnx_model, [index]) == expected
    assert ask(torch_model, [index]) == expected
    assert ask_transformers([index]) == expected


@pytest.mark.parametrize("chosen", BATCHES, ids=str)
def test_in_a_padded_batch(torch_model: PaliGemma, onnx_model: PaliGemma, chosen: list[int]) -> None:
    expected = [golden_ids(index) for index in chosen]
    assert ask(onnx_model, chosen) == expected
    assert ask(torch_model, chosen) == expected
    assert ask_transformers(chosen) == expected


def test_the_texts_are_those_of_the_ids(onnx_model: PaliGemma) -> None:
    assert all(onnx_model.tokenizer.decode(entry["ids"]) == entry["text"] for entry in GOLDEN)


def test_outliers_inside_change_no_id(tmp_path: Path) -> None:
    """A hundredth of the channels is 64 times as large, and what reads them as much smaller."""
    with shipped_model() as folder:
        write_with_outliers(folder, tmp_path / "outliers")
        _, plain = open_checkpoint(folder)
    _, changed = open_checkpoint(tmp_path / "outliers")
    gain = "language_model.layers.0.input_layernorm.weight"
    growth = (1 + changed.tensor(gain)) / (1 + plain.tensor(gain).float())
    assert float(growth.max()) == pytest.approx(OUTLIER_FACTOR)
    model = open_torch_model(tmp_path / "outliers")
    for chosen in BATCHES:
        assert ask(model, chosen) == [golden_ids(index) for index in chosen]
