"""What the shipped model is asked: the golden run, and scenes that nobody has seen.

All are drawn from their seeds; no torch is needed.
"""

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

from ..measured_process import ROOT

GOLDEN = ROOT / "tests" / "golden"
FIRST_SEED = 3_100_000_000  # of scenes that neither training nor evaluation draws
# Kinds whose answers are of like length stand together: a batch takes as long as its longest answer.
KINDS: tuple[Kind, ...] = (*QUESTIONS, "caption", "detect", "segment")
MASK_CODES = [
    [0] * SEG_TOKENS_PER_MASK
] * 5  # true ones are not known here, and no answer is compared with them

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Question:
    """A prompt about a picture."""

    picture: Path | NDArray[np.uint8]
    kind: str
    prompt: str
    golden: Ids | None = None  # what torch, onnxruntime and transformers answered


def questions(scenes: int) -> list[Question]:
    """The golden ones, and all that so many scenes can be asked, in an order for batches."""
    drawn = [question for number in range(scenes) for question in _about(FIRST_SEED + number)]
    return [*golden(), *sorted(drawn, key=lambda one: KINDS.index(one.kind))]


def golden() -> list[Question]:
    """Those whose answers are known."""
    entries = json.loads((GOLDEN / "golden.json").read_text(encoding="utf-8"))
    return [
        Question(GOLDEN / entry["image"], entry["kind"], entry["prompt"], tuple(entry["ids"]))
        for entry in entries
    ]


def golden_kept(answers: Sequence[Sequence[int]]) -> tuple[int, int]:
    """How many golden answers there are among those to `questions`, and how many are as they should be."""
    known = golden()
    kept = sum(tuple(answer) == one.golden for one, answer in zip(known, answers, strict=False))
    return len(known), kept


def _about(seed: int) -> list[Question]:
    """One of each kind that the scene has."""
    drawing, chosen = render_scene(seed), np.random.RandomState(seed)
    found = [make_example(drawing.scene, kind, chosen, MASK_CODES) for kind in KINDS]
    return [Question(drawing.pixels, one.kind, one.prompt) for one in found if one is not None]


def picture_name(question: Question) -> str:
    """For a report."""
    return question.picture.name if isinstance(question.picture, Path) else "drawn"
