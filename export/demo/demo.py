"""Demo: export the shipped model and answer prompts about a shipped scene, offline, in about a minute."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path

from PIL import Image

from paligemma_onnx.runtime.atomic_file import temporary_folder
from paligemma_onnx.runtime.console import echo, echo_stderr
from paligemma_onnx.runtime.detection.detection import Detection
from paligemma_onnx.runtime.detection.drawing import draw
from paligemma_onnx.runtime.generation.types import Generation
from paligemma_onnx.runtime.image.open import open_image
from paligemma_onnx.runtime.paligemma import PaliGemma

from ..exporter import ExportRequest, Progress, export
from ..validation.self_check import self_check
from .shipped_model import shipped_model

SCENE = "scene.png"
PROMPTS = (
    "caption en",
    "answer en how many objects are there?",
    "answer en what does it say?",
    "detect circle ; star",
    "segment blue ring",
)
ZOOM = 3  # enlargement of the scene, so that the drawn labels are legible


def run_demo(output: Path | None, progress: Progress) -> Image.Image:
    """Export the shipped model, print its answers about the shipped scene, and draw its detections.

    Args:
        output: folder for the bundle. None uses a temporary folder, which is removed at the end.
        progress: display of the stages of the export.

    Returns:
        The enlarged scene with boxes and masks, in RGB.
    """
    folder_context = temporary_folder() if output is None else nullcontext(output)
    with shipped_model() as checkpoint, folder_context as folder:
        bundle = folder / "bundle"
        export(ExportRequest(checkpoint, bundle), progress, partial(self_check, progress=progress.stage))
        progress.stage("answering prompts about the scene")
        model = PaliGemma.load(bundle)
        with as_file(files(__package__) / SCENE) as scene:
            detections = list[Detection]()
            for prompt in PROMPTS:
                task, _, labels = prompt.partition(" ")
                if task in ("detect", "segment"):
                    result = model.detect(scene, labels) if task == "detect" else model.segment(scene, labels)
                    detections += result
                    answer = result.generation
                else:
                    answer = model.generate(scene, prompt)
                echo(f"{prompt!r}: {answer.text!r}")
                echo_stderr(_format_timings(answer))
            image = open_image(scene).rgb
        enlarged = image.resize((ZOOM * image.width, ZOOM * image.height), Image.Resampling.LANCZOS)
        return draw(enlarged, detections)


def _format_timings(answer: Generation) -> str:
    timings = answer.timings
    return (
        f"  vision {timings.vision_s * 1e3:.0f} ms, prefill {timings.prefill_s * 1e3:.0f} ms, "
        f"{len(answer.token_ids)} tokens at {timings.tokens_per_second:.0f} tokens/s"
    )
