"""Prompts for the shipped model: those of the golden run, and prompts about scenes it was not trained on."""

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
FIRST_SEED = 3_100_000_000  # seed of the first scene; training and evaluation use smaller seeds
# Kinds of prompts in the order of batches. Kinds with answers of similar length are neighbours, because a
# batch takes as long as its longest answer.
KINDS: tuple[Kind, ...] = (*QUESTIONS, "caption", "detect", "segment")
# Placeholders for the mask tokens of the expected answers, which this module does not use.
MASK_CODES = [[0] * SEG_TOKENS_PER_MASK] * 5


@dataclass(frozen=True)
class Prompt:
    """A prompt about an image."""

    image: Path | NDArray[np.uint8]
    kind: str
    text: str
    golden: tuple[int, ...] | None = None  # ids of the known answer; None if the answer is not known

    @property
    def image_name(self) -> str:
        """File name of the image, or `drawn` if the image is not a file."""
        return self.image.name if isinstance(self.image, Path) else "drawn"


def all_prompts(scenes: int) -> list[Prompt]:
    """Return the golden prompts and prompts about new scenes, in an order in which batches are efficient.

    Args:
        scenes: number of scenes to draw.
    """
    drawn = [prompt for number in range(scenes) for prompt in _prompts_about(FIRST_SEED + number)]
    return [*golden_prompts(), *sorted(drawn, key=lambda prompt: KINDS.index(prompt.kind))]


def golden_prompts() -> list[Prompt]:
    """Return the prompts of the golden run, on whose answers torch, onnxruntime and transformers agree."""
    entries = json.loads((GOLDEN / "golden.json").read_text(encoding="utf-8"))
    return [
        Prompt(GOLDEN / entry["image"], entry["kind"], entry["prompt"], tuple(entry["ids"]))
        for entry in entries
    ]


def count_golden(answers: Sequence[Sequence[int]]) -> tuple[int, int]:
    """Return the number of golden prompts, and the number of those that were answered as in the golden run.

    Args:
        answers: ids of the answers to `all_prompts`, in the same order.
    """
    known = golden_prompts()
    equal = sum(tuple(answer) == prompt.golden for prompt, answer in zip(known, answers, strict=False))
    return len(known), equal


def _prompts_about(seed: int) -> list[Prompt]:
    """Return one prompt of each kind that is possible for the scene of a seed."""
    drawing, generator = render_scene(seed), np.random.RandomState(seed)
    examples = [make_example(drawing.scene, kind, generator, MASK_CODES) for kind in KINDS]
    return [Prompt(drawing.pixels, task.kind, task.prompt) for task in examples if task is not None]
