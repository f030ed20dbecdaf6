"""Prompts for the shipped model: those of the golden run, and drawn scenes that it was not trained on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from paligemma_onnx.runtime.bundle.schema import SEG_TOKENS_PER_MASK
from training.scenes import render_scene
from training.tasks import QUESTIONS, Kind, make_example

GOLDEN = Path(__file__).parents[2] / "tests" / "golden"
FIRST_SEED = 3_100_000_000  # of scenes that neither training nor evaluation draws
# Kinds whose answers have similar lengths are neighbours: a batch takes as long as its longest answer.
KINDS: tuple[Kind, ...] = (*QUESTIONS, "caption", "detect", "segment")
# Placeholders for the masks' tokens in the expected answers, which are not used here.
MASK_CODES = [[0] * SEG_TOKENS_PER_MASK] * 5


@dataclass(frozen=True)
class Prompt:
    """A prompt about an image."""

    image: Path | NDArray[np.uint8]
    kind: str
    text: str
    golden: tuple[int, ...] | None = None  # ids that torch, onnxruntime and transformers answered

    @property
    def image_name(self) -> str:
        """Name for a report."""
        return self.image.name if isinstance(self.image, Path) else "drawn"


def all_prompts(scenes: int) -> list[Prompt]:
    """Return the golden prompts and those about that many drawn scenes, ordered for batches."""
    drawn = [prompt for number in range(scenes) for prompt in _prompts_about(FIRST_SEED + number)]
    return [*golden_prompts(), *sorted(drawn, key=lambda prompt: KINDS.index(prompt.kind))]


def golden_prompts() -> list[Prompt]:
    """Return the prompts whose answers are known."""
    entries = json.loads((GOLDEN / "golden.json").read_text(encoding="utf-8"))
    return [
        Prompt(GOLDEN / entry["image"], entry["kind"], entry["prompt"], tuple(entry["ids"]))
        for entry in entries
    ]


def count_golden(answers: Sequence[Sequence[int]]) -> tuple[int, int]:
    """Return how many of the answers to `all_prompts` have a known answer, and how many of these equal it."""
    known = golden_prompts()
    equal = sum(tuple(answer) == prompt.golden for prompt, answer in zip(known, answers, strict=False))
    return len(known), equal


def _prompts_about(seed: int) -> list[Prompt]:
    """Return a prompt of each kind that the scene allows."""
    drawing, generator = render_scene(seed), np.random.RandomState(seed)
    examples = [make_example(drawing.scene, kind, generator, MASK_CODES) for kind in KINDS]
    return [Prompt(drawing.pixels, task.kind, task.prompt) for task in examples if task is not None]
