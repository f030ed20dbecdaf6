"""Scores of objects: computed from the tokens of the object, the same in Python, JSON and batch rows."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from command_line import run_in_process
from paths import ROOT, SCENE
from scipy.special import softmax
from scripted_runner import STOP, ids_of, scripted_model

from paligemma_onnx.runtime import PaliGemma
from paligemma_onnx.runtime.detection.parsing import parse_answer
from paligemma_onnx.runtime.detection.scores import answer_text, score_object
from paligemma_onnx.runtime.generation.logits import NEAR
from paligemma_onnx.runtime.generation.types import Generation, Timings
from paligemma_onnx.runtime.text.tokenizer import PromptTokenizer

PROMPT = "circle ; ring"
NO_TIME = Timings(0, 0, 0, 0, 0, 0)
TOKENIZER = PromptTokenizer.load(ROOT / "export" / "demo" / "paligemma-scenes" / "tokenizer.json")
SEGMENT = "<seg001>" * 16


@pytest.fixture(scope="module")
def model(shipped_bundle: Path) -> PaliGemma:
    return PaliGemma.load(shipped_bundle, device="cpu")


@pytest.mark.parametrize("masks", ["", SEGMENT])
@pytest.mark.parametrize("separator", [" ; ", ";", "  ;  ", " ; <loc0001> broken ; "])
def test_the_tokens_of_each_object(masks: str, separator: str) -> None:
    """Location and label tokens are counted, mask tokens and separators are not."""
    first = f"<loc0001><loc0002><loc0500><loc0600>{masks} red circle"
    second = f"<loc0100><loc0200><loc0501><loc0601>{masks} 猫"
    text = first + separator + second
    ids = TOKENIZER.encode(text, 999)[1:-1]
    generation = Generation(text, ids, "stop", 0, 0, 0, "cpu", NO_TIME, ())
    names = [TOKENIZER.token_name(token) for token in ids]
    is_location = [name.startswith("<loc") for name in names]
    rng = np.random.default_rng(0)
    logprobs = tuple(-rng.random(len(ids)))
    places = tuple(rng.random() if location else None for location in is_location)
    generation = Generation(text, ids, "stop", 0, 0, 0, "cpu", NO_TIME, (), tuple(names), logprobs, places)
    found, starts = answer_text(generation, TOKENIZER)
    assert found == text
    parsed = parse_answer(text).objects
    assert len(parsed) == 2
    for which, label in zip(parsed, (" red circle", " 猫"), strict=True):
        score = score_object(which, generation, starts)
        assert score is not None
        begin = starts.index(which.positions[0])
        after = begin + 4 + (16 if masks else 0)
        count = len(TOKENIZER.encode(f"<loc0000>{label}<loc0000>", 99)) - 4
        edges = [places[index] or 0.0 for index in range(begin, begin + 4)]
        assert score.box == pytest.approx(np.prod(edges) ** 0.25)
        assert score.label == pytest.approx(math.exp(sum(logprobs[after : after + count])))
        assert score.product == score.box * score.label


def test_scores_from_logits(model: PaliGemma) -> None:
    ids = ids_of(model, "<loc0100><loc0200><loc0600><loc0700> circle")
    rng = np.random.default_rng(1)
    steps = []
    for token in ids:
        logits = rng.standard_normal(model.manifest.model.vocab_size).astype(np.float32)
        logits[token] = 9
        steps.append(logits)
    (found,) = scripted_model(model, [*steps, STOP]).detect(SCENE, "circle")
    first = model.tokenizer.token_id("<loc0000>")
    edges = [
        softmax(logits.astype(np.float64))[token - NEAR : token + NEAR + 1].sum()
        for logits, token in zip(steps[:4], ids, strict=False)
    ]
    assert ids[0] == first + 100
    assert found.box_score == pytest.approx(np.prod(edges) ** 0.25, rel=1e-5)
    assert found.label_score == pytest.approx(softmax(steps[4].astype(np.float64))[ids[4]], rel=1e-5)


@pytest.mark.slow
def test_the_same_scores_everywhere(
    model: PaliGemma, shipped_bundle: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    detections = model.detect(SCENE, PROMPT)
    assert len(detections) >= 1
    for detection in detections:
        assert detection.score is not None
        assert 0 < detection.score <= 1
    shown = model.detect(SCENE, PROMPT, special_tokens=True)
    assert [detection.score for detection in shown] == [detection.score for detection in detections]
    scores = [pytest.approx(detection.score) for detection in detections]
    given = ("--model", shipped_bundle, "--device", "cpu")
    printed = json.loads(run_in_process(capsys, "detect", *given, "--image", SCENE, "--json", PROMPT).out)
    assert [entry["score"] for entry in printed["objects"]] == scores
    assert len(printed["logprobs"]) == len(printed["tokens"]) == len(printed["token_ids"])

    (tmp_path / "list.txt").write_text(f"{SCENE}\n", encoding="utf-8")
    batch = ("batch", *given, "--input", tmp_path / "list.txt", "--prompt", f"detect {PROMPT}")
    assert run_in_process(capsys, *batch, "--output", tmp_path / "plain").code == 0
    (line,) = (tmp_path / "plain").glob("part-*.jsonl")
    row = json.loads(line.read_text(encoding="utf-8"))
    assert (row["logprobs"], row["tokens"], row["boxes"][0]["score"]) == (None, None, None)
    options = ("--logprobs", "--format", "parquet", "--output", tmp_path / "scored")
    assert run_in_process(capsys, *batch, *options).code == 0
    (file,) = (tmp_path / "scored").glob("part-*.parquet")
    (scored,) = pyarrow.parquet.read_table(file).to_pylist()
    assert [box["score"] for box in scored["boxes"]] == scores
    assert scored["logprobs"] == pytest.approx(detections.generation.logprobs)
    assert scored["tokens"] == list(detections.generation.tokens)
