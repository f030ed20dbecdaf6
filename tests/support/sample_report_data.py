"""Made-up report data: of a sound bundle, of a rounded one, and of one that fails in every way."""

from __future__ import annotations

import math
from collections.abc import Callable

from PIL import Image

from paligemma_onnx.export.report.embedded_images import EmbeddedImage, embed
from paligemma_onnx.export.report.report_data import (
    Answer,
    DivergencePoint,
    ImageInfo,
    ModelAnswer,
    ReportData,
    Token,
)
from paligemma_onnx.export.validation.compare_weights import WeightComparison
from paligemma_onnx.export.validation.measures import (
    EXACT,
    LIMITS,
    ROUNDED,
    Comparison,
    Difference,
    GreedyRun,
    TokenAgreement,
)
from paligemma_onnx.export.validation.validate import Validation, describe_failure
from paligemma_onnx.runtime.bundle.schema import FileSpec, Matrices, ModelFacts, PrecisionFacts, Producer
from paligemma_onnx.runtime.detection.parsing import parse_answer
from paligemma_onnx.runtime.diagnostics.machine import Machine

LAYERS, STEPS = 18, 12
HOSTILE = "</style><script>alert(1)</script>\"'&\x00\x1b[31m\u202e<img src=http://example.com onerror=x>"
REFERENCE_OBJECTS = (
    "<loc0100><loc0200><loc0500><loc0600> cat ; <loc0000><loc0000><loc1023><loc1023> a long name of a thing"
)
BUNDLE_OBJECTS = "<loc0110><loc0190><loc0510><loc0610> cat ; <loc0300> dog"


def sample_report_data(
    *, prompts: tuple[str, ...] = ("caption en", "detect cat"), precision: str = "fp32", scale: float = 1e-6
) -> ReportData:
    """Return the report of a bundle whose errors are around `scale`."""
    return _report_data(prompts, precision, lambda index: scale * (1.3 + math.sin(index)), name="photo.jpg")


def broken_report_data() -> ReportData:
    """Return a report with infinite, zero and large errors, different tokens, and names that contain code."""
    errors = (math.inf, 0.0, 3.0, math.nan, 1e-5)
    prompts = (HOSTILE, f"detect {HOSTILE}")
    return _report_data(prompts, "fp32", lambda index: errors[index % 5], name=HOSTILE)


def sample_image(width: int, height: int, label: str = "an image") -> EmbeddedImage:
    """Return an embedded image with a gradient."""
    return embed(Image.linear_gradient("L").resize((width, height)).convert("RGB"), label)


def _report_data(
    prompts: tuple[str, ...], precision: str, error: Callable[[int], float], name: str
) -> ReportData:
    limits, wrong = LIMITS.get(precision, ROUNDED), name == HOSTILE
    stages = ["prefill", *(f"step.{step}" for step in range(STEPS))]
    kinds = ["logits", *(f"{layer}.{kind}" for layer in range(LAYERS) for kind in ("key", "value"))]
    outputs = [("vision", "image_features"), *((stage, kind) for stage in stages for kind in kinds)]
    rows = range(len(prompts))
    differences = [
        Difference(stage, kind, error(index) * 3, error(index), (0, 1), error(index) / 10, limits)
        for index, (stage, kind) in enumerate(outputs)
    ]
    if precision != "fp32":
        differences.append(Difference("mask_decoder", "masks", 3e-6, 1e-6, (0, 1), 1e-7, EXACT))
    agreements = [
        TokenAgreement(stage, row, not (wrong and row == 0), False, 10 - wrong, error(index) ** 2)
        for index, stage in enumerate(stages)
        for row in rows
    ]
    runs = tuple(_greedy_run(row, wrong=wrong) for row in rows)
    comparison = Comparison(precision == "fp32", tuple(differences), tuple(agreements), runs)
    weights = WeightComparison(40, (HOSTILE,) if wrong else ())
    validation = Validation("0" * 32, precision, "torch 2", "cpu", len(prompts), STEPS, weights, comparison)
    return ReportData(
        validation=validation,
        problem=describe_failure(validation),
        created="2026-01-02T03:04:05+00:00",
        seconds=1.5,
        checkpoint=name,
        adapter=name if wrong else None,
        images=(ImageInfo(name, 640, 480),),
        answers=tuple(_answer(row, prompt, wrong=wrong) for row, prompt in enumerate(prompts)),
        model=ModelFacts("paligemma", 4_000_000, 192, 1845, 512, None, None, 4),
        precision_facts=PrecisionFacts(precision, 20, Matrices("a", "b", "c", "d"), None, ("cpu",)),
        producer=Producer("0.1.0", "2.13", "1.23"),
        files={"decode.onnx": FileSpec(1000, "f" * 64)},
        versions={"numpy": "2.4", "onnxruntime-gpu": None},
        python="3.11.7",
        machine=Machine("Linux x86_64", "A processor", 2, 8 << 30, None),
    )


def _greedy_run(row: int, *, wrong: bool) -> GreedyRun:
    ids = tuple(range(STEPS))
    if wrong:
        return GreedyRun(row, ids, (0, 9, *ids[2:]), 1, False, 2.5)
    return GreedyRun(row, ids, ids, None, True, None)


def _answer(row: int, prompt: str, *, wrong: bool) -> Answer:
    detects = prompt.startswith("detect")
    texts = (REFERENCE_OBJECTS, BUNDLE_OBJECTS) if detects else ("a cat", HOSTILE if wrong else "a cat")
    point = DivergencePoint(1, Token(1, HOSTILE), Token(9, "x"), 2.5, False, False) if wrong else None
    reference, bundle = (
        ModelAnswer(text, True, parse_answer(text).objects, parse_answer(text).warnings)
        if detects
        else ModelAnswer(text, False, (), ())
        for text in texts
    )
    return Answer(row, prompt, reference, bundle, point)
