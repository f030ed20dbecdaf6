"""Findings made up for reports: of a sound bundle, of a rounded one, and of one that fails in every way."""

from __future__ import annotations

import math
from collections.abc import Callable

from PIL import Image

from paligemma_onnx.export.report.embedded_images import Embedded, embed
from paligemma_onnx.export.report.findings import (
    Answer,
    Divergence,
    ImageInfo,
    ModelAnswer,
    ReportData,
    Token,
)
from paligemma_onnx.export.validation.compare_weights import WeightComparison
from paligemma_onnx.export.validation.measures import (
    EXACT,
    ROUNDED,
    Comparison,
    Difference,
    GreedyRun,
    Limits,
    TokenAgreement,
)
from paligemma_onnx.export.validation.validate import Validation, describe_failure
from paligemma_onnx.runtime.bundle.schema import FileSpec, Matrices, ModelFacts, PrecisionFacts, Producer
from paligemma_onnx.runtime.detection.parsing import parse_answer
from paligemma_onnx.runtime.diagnostics.machine import Machine

LAYERS, STEPS = 18, 12
HOSTILE = "</style><script>alert(1)</script>\"'&\x00\x1b[31m\u202e<img src=http://example.com onerror=x>"
BOXES = (
    "<loc0100><loc0200><loc0500><loc0600> cat ; <loc0000><loc0000><loc1023><loc1023> a long name of a thing"
)
OTHER = "<loc0110><loc0190><loc0510><loc0610> cat ; <loc0300> dog"


def findings(
    *, prompts: tuple[str, ...] = ("caption en", "detect cat"), exact: bool = True, scale: float = 1e-6
) -> ReportData:
    """Findings of a bundle whose errors are around `scale`."""
    return _findings(prompts, exact, lambda at: scale * (1.3 + math.sin(at)), name="photo.jpg")


def broken() -> ReportData:
    """Errors that are not finite, nothing at all or far too large; words that differ; names that are code."""
    errors = (math.inf, 0.0, 3.0, math.nan, 1e-5)
    return _findings((HOSTILE, f"detect {HOSTILE}"), True, lambda at: errors[at % 5], name=HOSTILE)


def picture(width: int, height: int, label: str = "a picture") -> Embedded:
    """A picture with a pattern, embedded."""
    return embed(Image.linear_gradient("L").resize((width, height)).convert("RGB"), label)


def _findings(prompts: tuple[str, ...], exact: bool, error: Callable[[int], float], name: str) -> ReportData:
    limits, wrong = EXACT if exact else ROUNDED, name == HOSTILE
    stages = ["prefill", *(f"step.{step}" for step in range(STEPS))]
    outputs = ["logits", *(f"{layer}.{kind}" for layer in range(LAYERS) for kind in ("key", "value"))]
    named = [("vision", "image_features"), *((stage, output) for stage in stages for output in outputs)]
    rows = range(len(prompts))
    comparison = Comparison(
        exact,
        tuple(_difference(stage, output, error(at), limits) for at, (stage, output) in enumerate(named)),
        tuple(
            TokenAgreement(stage, row, not (wrong and row == 0), False, 10 - wrong, error(at) ** 2)
            for at, stage in enumerate(stages)
            for row in rows
        ),
        tuple(_run(row, wrong=wrong) for row in rows),
    )
    weights = WeightComparison(40, (HOSTILE,) if wrong else ())
    validation = Validation(
        "0" * 32, "fp32" if exact else "int4", "torch 2", "cpu", len(prompts), STEPS, weights, comparison
    )
    return ReportData(
        validation=validation,
        problem=describe_failure(validation),
        created="2026-01-02T03:04:05+00:00",
        seconds=1.5,
        checkpoint=name,
        adapter=name if wrong else None,
        pictures=(ImageInfo(name, 640, 480),),
        answers=tuple(_answer(row, prompt, wrong=wrong) for row, prompt in enumerate(prompts)),
        model=ModelFacts("paligemma", 4_000_000, 192, 1845, 512, None, None, 4),
        recipe=PrecisionFacts("fp32" if exact else "int4", 20, Matrices("a", "b", "c", "d"), None, ("cpu",)),
        producer=Producer("0.1.0", "2.13", "1.23"),
        files={"decode.onnx": FileSpec(1000, "f" * 64)},
        versions={"numpy": "2.4", "onnxruntime-gpu": None},
        python="3.11.7",
        machine=Machine("Linux x86_64", "A processor", 2, 8 << 30, None),
    )


def _difference(stage: str, name: str, error: float, limits: Limits) -> Difference:
    return Difference(stage, name, error * 3, error, (0, 1), error / 10, limits)


def _run(row: int, *, wrong: bool) -> GreedyRun:
    ids = tuple(range(STEPS))
    return (
        GreedyRun(row, ids, (0, 9, *ids[2:]), 1, False, 2.5)
        if wrong
        else GreedyRun(row, ids, ids, None, True, None)
    )


def _answer(row: int, prompt: str, *, wrong: bool) -> Answer:
    texts = (BOXES, OTHER) if prompt.startswith("detect") else ("a cat", HOSTILE if wrong else "a cat")
    parting = Divergence(1, Token(1, HOSTILE), Token(9, "x"), 2.5, False, False) if wrong else None
    reference, bundle = (
        ModelAnswer(text, True, parse_answer(text).found, parse_answer(text).warnings)
        if prompt.startswith("detect")
        else ModelAnswer(text, False, (), ())
        for text in texts
    )
    return Answer(row, prompt, reference, bundle, parting)
