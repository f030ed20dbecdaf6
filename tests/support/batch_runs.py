"""Batches as tests make them: drawn pictures, what is written about them, and a model that costs nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from paligemma_onnx.runtime import Generation, NumericsError, PaliGemma, Picture, Request, Timings
from paligemma_onnx.runtime.image.open import ImageInput

CASE = "gemma_one_kv_head"
PROMPT = "caption en"
SAMPLED = ("--temperature", "1", "--seed", "5")
TRUNCATED = 60  # bytes of a PNG: its header and a little more


def draw(folder: Path, count: int, *, broken: Sequence[int] = ()) -> Path:
    """Pictures of noise, 0000.png and on; those of the numbers in `broken` are cut short."""
    folder.mkdir(parents=True)
    for number in range(count):
        path = folder / f"{number:04d}.png"
        pixels = np.random.default_rng(number).integers(0, 256, (12, 9 + number % 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        if number in broken:
            path.write_bytes(path.read_bytes()[:TRUNCATED])
    return folder


def rows_in(output: Path) -> list[dict[str, Any]]:
    """All rows of complete parts, in the order of the parts' names."""
    return [
        json.loads(line)
        for part in sorted(output.glob("part-*.jsonl"))
        for line in part.read_bytes().splitlines()
    ]


def told(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Rows by id, each of them once, without what differs from run to run."""
    found = {row["id"]: {key: cell for key, cell in row.items() if key != "timings"} for row in rows}
    assert len(found) == len(rows)
    return found


def asking(bundle: Path, source: Path, *options: str) -> tuple[str, ...]:
    """The command without an output, in parts of 16 rows."""
    return (
        *("batch", "--model", str(bundle), "--input", str(source), "--prompt", PROMPT, "--device", "cpu"),
        *("--threads", "1", "--max-new-tokens", "5", "--part-rows", "16", *options),
    )


def texts(output: Path) -> dict[str, str]:
    """What is said of each picture."""
    return {name: row["text"] for name, row in told(rows_in(output)).items()}


def wait_for(happened: Callable[[], object]) -> None:
    """Until something is true, for a minute at most."""
    until = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.01)


class Stub:
    """Answers with the prompt, in no time; a prompt that holds `nan` makes its batch fail."""

    def __init__(self, model: PaliGemma) -> None:
        self.manifest, self.tokenizer, self.device = model.manifest, model.tokenizer, model.device
        self.batches: list[int] = []

    def open(self, image: ImageInput, *, max_image_pixels: int) -> Picture:
        assert isinstance(image, bytes | Path)
        assert max_image_pixels
        size = self.manifest.image.size
        return Picture(np.zeros((3, size, size), np.float32), 8, 6)

    def generate_batch(self, requests: Sequence[Request], **_options: Any) -> list[Generation]:
        self.batches.append(len(requests))
        if any("nan" in request.prompt for request in requests):
            raise NumericsError("the graphs answered with NaN")
        return [replace(_ANSWER, text=request.prompt) for request in requests]


_ANSWER = Generation("", (), "stop", 3, 4, 0, "cpu", Timings(0.0, 0.1, 0.2, 0.3, 0.4, 5.0), ())
