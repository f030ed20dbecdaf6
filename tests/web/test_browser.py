"""The layout for transformers.js in headless Chromium, with its default settings: no dtype and no device.

transformers.js then runs the default format of the folder in WebAssembly.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from shutil import copy
from typing import Any

import numpy as np
import pytest
from code_blocks import code_block
from javascript import WEB, JsAnswer, JsRequest, write_pixels
from paths import GOLDEN as FOLDER
from paths import ROOT
from transformers_model import reference_inputs, until_stop
from web_driver import open_page

from paligemma_onnx.export.layouts.layout import SUFFIXES

pytestmark = [
    pytest.mark.web,
    # Raised by transformers' processor where it computes labels, which these tests do not use.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

GOLDEN: list[dict[str, Any]] = json.loads((FOLDER / "golden.json").read_text(encoding="utf-8"))
KINDS = ("caption", "colour", "detect", "segment")
ENTRIES = [next(entry for entry in GOLDEN if entry["kind"] == kind) for kind in KINDS]
TOKENS = max(len(entry["ids"]) for entry in ENTRIES) + 1
# Largest difference of a coordinate, in 1024ths of the side: the canvas of the browser resizes images
# differently, and rounding moves coordinates, too. Measured on 32 prompts: 3 (fp32), 2 (q8), 6 (q4).
BOX_TOLERANCE = {"fp32": 3}
ROUNDED_BOX_TOLERANCE = 8
LOCATION, CODES = re.compile(r"<loc(\d{4})>"), re.compile(r"<(?:loc\d{4}|seg\d{3})>")


@pytest.fixture(scope="module")
def answers(
    layout: Callable[[str, str, str], Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[JsAnswer]]:
    """The answers of each format: with the pixel values of transformers, then from the image files."""
    site = tmp_path_factory.mktemp("site")
    for name in ("page.html", "answer.mjs"):
        copy(WEB / name, site)
    (site / "models").mkdir()
    for dtype in SUFFIXES:
        (site / "models" / dtype).symlink_to(layout("shipped", "transformers.js", dtype))
    given, preprocessed = [], []
    for index, entry in enumerate(ENTRIES):
        copy(FOLDER / entry["image"], site)
        texts, files = [f"<image>{entry['prompt']}"], [f"/{entry['image']}"]
        pixels = reference_inputs(texts, [[str(FOLDER / entry["image"])]])["pixel_values"].numpy()
        write_pixels(site / f"{index}.f32", pixels)
        given.append(JsRequest(texts, files, TOKENS, f"/{index}.f32"))
        preprocessed.append(JsRequest(texts, files, TOKENS))
    job = {"models": list(SUFFIXES), "requests": [asdict(request) for request in given + preprocessed]}
    (site / "job.json").write_text(json.dumps(job), encoding="utf-8")
    results = json.loads(open_page(site, "page.html"))
    return {dtype: [JsAnswer(**answer) for answer in rows] for dtype, rows in results.items()}


def test_ids_equal_transformers(answers: dict[str, list[JsAnswer]]) -> None:
    given = answers["fp32"][: len(ENTRIES)]
    assert [until_stop(answer.ids[0]) for answer in given] == [entry["ids"] for entry in ENTRIES]


@pytest.mark.parametrize("dtype", SUFFIXES)
def test_a_default_call_answers(answers: dict[str, list[JsAnswer]], dtype: str) -> None:
    """Words are equal, with given pixel values and with those of the browser, and coordinates are close."""
    for entry, answer in zip([*ENTRIES, *ENTRIES], answers[dtype], strict=True):
        (text,) = answer.texts
        assert CODES.sub("", text).strip() == CODES.sub("", entry["text"]).strip()
        actual, wanted = (np.array(LOCATION.findall(each), int) for each in (text, entry["text"]))
        tolerance = BOX_TOLERANCE.get(dtype, ROUNDED_BOX_TOLERANCE)
        assert np.abs(actual - wanted).max(initial=0) <= tolerance, text


def test_the_page_of_the_docs(layout: Callable[[str, str, str], Path], tmp_path: Path) -> None:
    entry = ENTRIES[0]
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "paligemma").symlink_to(layout("shipped", "transformers.js", "q4"))
    copy(FOLDER / entry["image"], tmp_path / "photo.jpg")
    (tmp_path / "index.html").write_text(code_block(ROOT / "docs" / "transformers-js.md", "html"))
    assert open_page(tmp_path, "index.html") == entry["text"]
