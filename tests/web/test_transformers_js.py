"""The layout for transformers.js in Node, compared with transformers."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from code_blocks import code_block
from embeds_driver import EmbedsDriver
from javascript import WEB, JsRequest, run_transformers_js, write_pixels
from paths import GOLDEN as FOLDER
from paths import ROOT
from reference_answers import random_pixels, reference_ids
from time_limits import HANG
from transformers_model import reference_inputs, transformers_model, until_stop

from paligemma_onnx.export.layouts.layout import SUFFIXES

pytestmark = [
    pytest.mark.web,
    # Raised by transformers' processor where it computes labels, which these tests do not use.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

GOLDEN: list[dict[str, Any]] = json.loads((FOLDER / "golden.json").read_text(encoding="utf-8"))
TOKENS = max(len(entry["ids"]) for entry in GOLDEN) + 1
# Largest difference of a coordinate, in 1024ths of the side: transformers.js resizes without antialiasing.
BOX_TOLERANCE = 3
LOCATION = re.compile(r"<loc(\d{4})>")
Layout = Callable[[str, str, str], Path]


def expected_answer(texts: list[str], files: list[list[str]]) -> tuple[Any, list[list[int]], list[list[int]]]:
    """Return the pixel values, the prompt ids and the ids that transformers generates."""
    inputs = reference_inputs(texts, files)
    output = transformers_model()[0].generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
    prompts = inputs["input_ids"]
    return inputs["pixel_values"].numpy(), prompts.tolist(), output[:, prompts.shape[1] :].tolist()


def image_of(entry: dict[str, Any]) -> str:
    return str(FOLDER / entry["image"])


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_ids_equal_transformers(layout: Layout, tmp_path: Path, dtype: str) -> None:
    """Every kind of prompt, a padded batch of two, and two images in one prompt, with given pixels."""
    folder = layout("shipped", "transformers.js", dtype)
    batches = [([f"<image>{entry['prompt']}"], [[image_of(entry)]]) for entry in GOLDEN]
    first, second, other = GOLDEN[1], GOLDEN[8], GOLDEN[25]
    pair = [f"<image>{entry['prompt']}" for entry in (first, second)]
    batches.append((pair, [[image_of(first)], [image_of(second)]]))
    batches.append((["<image><image>caption en"], [[image_of(second), image_of(other)]]))
    expected, requests = [], []
    for index, (texts, files) in enumerate(batches):
        pixels, prompts, ids = expected_answer(texts, files)
        expected.append((prompts, [until_stop(row) for row in ids]))
        given = write_pixels(tmp_path / f"{index}.f32", pixels)
        requests.append(JsRequest(texts, [file for row in files for file in row], TOKENS, given))
    answers = run_transformers_js(folder, requests, tmp_path)
    assert [(answer.prompts, [until_stop(row) for row in answer.ids]) for answer in answers] == expected
    assert [row for _, rows in expected[: len(GOLDEN)] for row in rows] == [entry["ids"] for entry in GOLDEN]
    assert len({len(row) for row in expected[-2][1]}) == 2


def test_paligemma2_equals_transformers(layout: Layout, tmp_path: Path) -> None:
    """Soft caps, several KV heads, a window of 5 tokens; one image, and two in each row of a padded batch.

    With added tokens, transformers.js forgets which tokens are padding; the decoder remembers.
    """
    name, steps, image = "gemma2_window", 8, image_of(GOLDEN[0])
    texts = [["<image>caption en"], ["<image><image>detect cat", "<image><image>answer en what is this?"]]
    pixels = [random_pixels(name, batch[0].count("<image>") * len(batch)) for batch in texts]
    requests = []
    for index, (batch, values) in enumerate(zip(texts, pixels, strict=True)):
        given = write_pixels(tmp_path / f"{index}.f32", values)
        requests.append(JsRequest(batch, [image] * len(values), steps, given))
    answers = run_transformers_js(layout(name, "transformers.js", "fp32"), requests, tmp_path)
    for answer, values in zip(answers, pixels, strict=True):
        prompts = np.array(answer.prompts)
        mask = (prompts != 0).astype(np.int64)  # id 0 is the padding
        assert answer.ids == reference_ids(name, prompts, mask, values, steps)
    assert 0 in answers[1].prompts[0]


def test_preprocessing_of_transformers_js(layout: Layout, tmp_path: Path) -> None:
    """Scenes of twice the model's side: captions are equal, and coordinates move by at most 3/1024."""
    folder = layout("shipped", "transformers.js", "fp32")
    entries = [entry for entry in GOLDEN if entry["kind"] in ("caption", "detect")]
    requests = [JsRequest([f"<image>{entry['prompt']}"], [image_of(entry)], TOKENS) for entry in entries]
    answers = run_transformers_js(folder, requests, tmp_path)
    for entry, answer in zip(entries, answers, strict=True):
        expected = entry["text"]
        (text,) = answer.texts
        assert LOCATION.sub("", text).strip() == LOCATION.sub("", expected).strip()
        actual, wanted = (np.array(LOCATION.findall(each), int) for each in (text, expected))
        assert np.abs(actual - wanted).max(initial=0) <= BOX_TOLERANCE
    assert any(LOCATION.search(entry["text"]) for entry in entries)


@pytest.mark.parametrize("dtype", ["q8", "q4"])
def test_rounded_graphs_answer_most_prompts_alike(layout: Layout, tmp_path: Path, dtype: str) -> None:
    """onnxruntime in Python and in Node round activations alike; a few ids may differ at near ties."""
    folder = layout("shipped", "transformers.js", dtype)
    requests = []
    for index, entry in enumerate(GOLDEN[:16]):
        texts = [f"<image>{entry['prompt']}"]
        pixels = reference_inputs(texts, [[image_of(entry)]])["pixel_values"].numpy()
        given = write_pixels(tmp_path / f"{index}.f32", pixels)
        requests.append(JsRequest(texts, [image_of(entry)], TOKENS, given))
    answers = run_transformers_js(folder, requests, tmp_path)
    suffix, image_token = SUFFIXES[dtype], transformers_model()[0].config.image_token_id
    driver = EmbedsDriver(folder, "transformers.js", suffix, image_token)
    expected = []
    for request in requests:
        inputs = reference_inputs(request.texts, [request.images])
        arrays = [inputs[name].numpy() for name in ("input_ids", "attention_mask", "pixel_values")]
        expected.append(until_stop(driver.generate(*arrays, TOKENS)[0]))
    actual = [until_stop(answer.ids[0]) for answer in answers]
    agreeing = sum(ids == wanted for ids, wanted in zip(actual, expected, strict=True))
    assert agreeing >= 0.9 * len(requests)


def test_the_program_of_the_docs(layout: Layout, tmp_path: Path) -> None:
    entry = next(entry for entry in GOLDEN if entry["prompt"] == "caption en")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "paligemma").symlink_to(layout("shipped", "transformers.js", "fp32"))
    (tmp_path / "node_modules").symlink_to(WEB / "node_modules")
    (tmp_path / "photo.jpg").write_bytes(Path(image_of(entry)).read_bytes())
    (tmp_path / "program.mjs").write_text(code_block(ROOT / "docs" / "transformers-js.md", "js"))
    command = ["node", "program.mjs"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=HANG, check=False)
    assert result.returncode == 0, result.stderr
    assert entry["text"] in result.stdout
