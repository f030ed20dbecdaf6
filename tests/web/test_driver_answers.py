"""Answers of the JavaScript driver, compared with the golden ids and with the Python driver."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paths import GOLDEN
from web_answers import web_answers, web_request

from paligemma_onnx.runtime import PaliGemma
from paligemma_onnx.runtime.detection.detections import Detections
from paligemma_onnx.runtime.generation.types import Generation
from paligemma_onnx.runtime.graphs.kv_cache import CACHE_HEADROOM

pytestmark = pytest.mark.web

ENTRIES: list[dict[str, Any]] = json.loads((GOLDEN / "golden.json").read_text(encoding="utf-8"))
MAX_NEW_TOKENS = max(len(entry["ids"]) for entry in ENTRIES) + 1
IMAGES = sorted({GOLDEN / entry["image"] for entry in ENTRIES})
TOLERANCE = 1e-5  # onnxruntime-node 1.30 and the installed onnxruntime sum float32 products in other orders


def golden_requests(entries: list[dict[str, Any]], scratch: Path) -> list[dict[str, Any]]:
    return [
        web_request([GOLDEN / entry["image"]], entry["prompt"], scratch, maxNewTokens=MAX_NEW_TOKENS)
        for entry in entries
    ]


def test_golden_ids_in_node(shipped_bundle: Path, tmp_path: Path) -> None:
    answers = web_answers(shipped_bundle, golden_requests(ENTRIES, tmp_path), tmp_path)
    assert [answer["tokenIds"] for answer in answers] == [entry["ids"] for entry in ENTRIES]
    assert [answer["finishReason"] for answer in answers] == [entry["finish"] for entry in ENTRIES]
    assert ["".join(answer["pieces"]) for answer in answers] == [entry["text"] for entry in ENTRIES]


def test_golden_ids_in_chromium(shipped_bundle: Path, tmp_path: Path) -> None:
    """One prompt of each kind, with WebAssembly."""
    entries = list({entry["kind"]: entry for entry in ENTRIES}.values())
    answers = web_answers(shipped_bundle, golden_requests(entries, tmp_path), tmp_path, "chromium")
    assert [answer["tokenIds"] for answer in answers] == [entry["ids"] for entry in entries]


@pytest.mark.parametrize("runtime", ["onnxruntime-node", "onnxruntime-web", "webgpu"])
def test_in_place_cache(in_place_bundle: Callable[[str], Path], tmp_path: Path, runtime: str) -> None:
    """More tokens than the cache has free slots after the prompt, and several images in one prompt."""
    bundle = in_place_bundle("gemma_one_kv_head")
    model = PaliGemma.load(bundle, device="cpu", threads=1)
    options = {"max_new_tokens": 140, "suppress_tokens": list(model.manifest.tokens.stop)}
    requests = [
        web_request(IMAGES[:1], "caption en", tmp_path, **in_camel_case(options)),
        web_request(IMAGES[:2], "caption en", tmp_path, maxNewTokens=8),
    ]
    expected = [
        model.generate(IMAGES[0], "caption en", **options),
        model.generate(IMAGES[:2], "caption en", max_new_tokens=8),
    ]
    assert len(expected[0].token_ids) == 140 > CACHE_HEADROOM
    answers = web_answers(bundle, requests, tmp_path, runtime)
    assert [answer["tokenIds"] for answer in answers] == [list(each.token_ids) for each in expected]


def test_options_and_scores(shipped_bundle: Path, tmp_path: Path) -> None:
    model = PaliGemma.load(shipped_bundle, device="cpu", threads=1)
    image = IMAGES[0]
    options: list[dict[str, Any]] = [
        {"temperature": 1.5, "seed": 2**63 + 5, "logprobs": True},
        {"temperature": 0.9, "top_k": 20, "top_p": 0.8, "seed": 7, "repetition_penalty": 1.3},
        {"suppress_tokens": [420, 496], "special_tokens": True, "max_new_tokens": 3},
        {"temperature": 2.0, "seed": 1, "constrained": True, "max_new_tokens": 40},
    ]
    prompts = ["caption en", "caption en", "caption en", "segment triangle ; square"]
    expected = [
        model.generate(image, prompt, **given) for prompt, given in zip(prompts, options, strict=True)
    ]
    requests = [
        web_request([image], prompt, tmp_path, **in_camel_case(given))
        for prompt, given in zip(prompts, options, strict=True)
    ]
    for answer, python in zip(web_answers(shipped_bundle, requests, tmp_path), expected, strict=True):
        assert_equal_generation(answer, python)


def test_boxes_and_masks(shipped_bundle: Path, tmp_path: Path) -> None:
    model = PaliGemma.load(shipped_bundle, device="cpu", threads=1)
    tasks = [("segment", "triangle ; square", True), ("detect", ["square"], False), ("segment", "dog", False)]
    requests, expected = list[dict[str, Any]](), list[Detections]()
    for task, labels, constrained in tasks:
        for image in IMAGES[:2]:
            options = {"constrained": constrained, "max_new_tokens": 50}
            request = web_request([image], "", tmp_path, task=task, **in_camel_case(options))
            requests.append({**request, "prompt": labels})
            expected.append(getattr(model, task)(image, labels, **options))
    assert any(detection.mask for found in expected for detection in found)
    for answer, python in zip(web_answers(shipped_bundle, requests, tmp_path), expected, strict=True):
        assert_equal_generation(answer, python.generation)
        plain = python.as_json()["objects"]
        assert [each["label"] for each in answer["objects"]] == [each["label"] for each in plain]
        assert [each["mask"] for each in answer["objects"]] == [each["mask"] for each in plain]
        for actual, levels, detection in zip(answer["objects"], answer["levels"], python, strict=True):
            assert actual["box"] == list(detection.pixels)
            for name in ("score", "box_score", "label_score"):
                assert actual[name] == pytest.approx(getattr(detection, name), abs=TOLERANCE)
            if detection.mask is not None:
                expected_levels = detection.mask.levels.reshape(-1)
                scale = np.abs(expected_levels).max()
                np.testing.assert_allclose(levels, expected_levels, rtol=0, atol=TOLERANCE * scale)


def assert_equal_generation(answer: dict[str, Any], python: Generation) -> None:
    fields = asdict(python)
    for name in ("text", "token_ids", "finish_reason", "prompt_tokens", "image_tokens", "tokens"):
        expected = fields[name]
        assert answer[camel(name)] == (list(expected) if isinstance(expected, tuple) else expected)
    for name in ("logprobs", "location_probs"):
        expected = fields[name]
        if expected is None:
            assert answer[camel(name)] is None
            continue
        assert [value is None for value in answer[camel(name)]] == [value is None for value in expected]
        actual = [value or 0 for value in answer[camel(name)]]
        np.testing.assert_allclose(actual, [value or 0 for value in expected], rtol=0, atol=2e-5)


def in_camel_case(options: dict[str, Any]) -> dict[str, Any]:
    """Return options with the names of the JavaScript driver; a seed becomes a text."""
    return {camel(name): str(value) if name == "seed" else value for name, value in options.items()}


def camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)
