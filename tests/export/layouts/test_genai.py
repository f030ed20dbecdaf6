"""The layout for onnxruntime-genai in its Python package: ids equal those that transformers generates.

tests/parity/test_golden.py compares the golden ids with transformers.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from code_blocks import code_block
from paths import GOLDEN as FOLDER
from paths import ROOT
from PIL import Image
from reference_answers import random_pixels, random_prompts, reference_ids
from time_limits import HANG

from paligemma_onnx.runtime import PaliGemma
from paligemma_onnx.runtime.image.preprocess import preprocess

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("onnxruntime_genai") is None, reason="onnxruntime-genai is not installed"),
]
GOLDEN: list[dict[str, Any]] = json.loads((FOLDER / "golden.json").read_text(encoding="utf-8"))
TOKENS = max(len(entry["ids"]) for entry in GOLDEN) + 1


def run_genai(folder: Path, requests: list[dict[str, Any]], scratch: Path) -> list[list[int]]:
    """Return the ids that onnxruntime-genai generates for each request of genai_answers.py."""
    (scratch / "job.json").write_text(json.dumps(requests), encoding="utf-8")
    script = ROOT / "tests" / "support" / "genai_answers.py"
    command = [sys.executable, script, folder, scratch / "job.json"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=HANG, check=False)
    assert result.returncode == 0, result.stderr
    answers: list[list[int]] = json.loads(result.stdout)
    return answers


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_ids_equal_the_golden_ids(
    layout: Callable[[str, str, str], Path], shipped_bundle: Path, tmp_path: Path, dtype: str
) -> None:
    bundle = PaliGemma.load(shipped_bundle)
    image, tokens = bundle.manifest.image, bundle.manifest.tokens
    requests = []
    for index, entry in enumerate(GOLDEN):
        rgb = Image.open(FOLDER / entry["image"]).convert("RGB")
        pixels = tmp_path / f"{index}.npy"
        np.save(pixels, preprocess(rgb, image.size, image.mean, image.std)[None])
        ids = [tokens.image] * image.tokens + list(bundle.tokenizer.encode(entry["prompt"], 400))
        requests.append({"ids": ids, "pixels": str(pixels), "image_tokens": image.tokens, "tokens": TOKENS})
    answers = run_genai(layout("shipped", "genai", dtype), requests, tmp_path)
    assert answers == [[*entry["ids"], *tokens.stop] for entry in GOLDEN]


def test_paligemma2_equals_transformers(layout: Callable[[str, str, str], Path], tmp_path: Path) -> None:
    """Soft caps, several KV heads and a window of 5 tokens; with one and with three images."""
    name, steps, image_tokens = "gemma2_window", 8, 256
    requests, expected = [], []
    for images, length in ((1, 9), (3, 6)):
        ids, mask = random_prompts(images, image_tokens, (length,))
        pixels, file = random_pixels(name, images), tmp_path / f"{images}.npy"
        np.save(file, pixels)
        counts = {"image_tokens": images * image_tokens, "tokens": steps}
        requests.append({"ids": ids[0].tolist(), "pixels": str(file), **counts})
        expected += reference_ids(name, ids, mask, pixels, steps)
    assert run_genai(layout(name, "genai", "fp32"), requests, tmp_path) == expected


def test_the_program_of_the_docs(layout: Callable[[str, str, str], Path], tmp_path: Path) -> None:
    entry = next(entry for entry in GOLDEN if entry["prompt"] == "caption en")
    (tmp_path / "paligemma-genai").symlink_to(layout("shipped", "genai", "fp32"))
    (tmp_path / "photo.jpg").write_bytes((FOLDER / entry["image"]).read_bytes())
    program = code_block(ROOT / "docs" / "genai.md", "python")
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=HANG, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == entry["text"]
