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
from time_limits import HANG

from paligemma_onnx.runtime import PaliGemma
from paligemma_onnx.runtime.image.preprocess import preprocess

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("onnxruntime_genai") is None, reason="onnxruntime-genai is not installed"),
]
GOLDEN: list[dict[str, Any]] = json.loads((FOLDER / "golden.json").read_text(encoding="utf-8"))
TOKENS = max(len(entry["ids"]) for entry in GOLDEN) + 1


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
    (tmp_path / "job.json").write_text(json.dumps(requests), encoding="utf-8")
    script = ROOT / "tests" / "support" / "genai_answers.py"
    command = [sys.executable, script, layout("shipped", "genai", dtype), tmp_path / "job.json"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=HANG, check=False)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == [[*entry["ids"], *tokens.stop] for entry in GOLDEN]


def test_the_program_of_the_docs(layout: Callable[[str, str, str], Path], tmp_path: Path) -> None:
    entry = next(entry for entry in GOLDEN if entry["prompt"] == "caption en")
    (tmp_path / "paligemma-genai").symlink_to(layout("shipped", "genai", "fp32"))
    (tmp_path / "photo.jpg").write_bytes((FOLDER / entry["image"]).read_bytes())
    program = code_block(ROOT / "docs" / "genai.md", "python")
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=HANG, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == entry["text"]
