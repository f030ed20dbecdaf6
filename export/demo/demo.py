"""The whole path in a minute, offline: the shipped model, its bundle, its answers about a shipped scene."""

from __future__ import annotations

import tempfile
from contextlib import nullcontext
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path

import click
from PIL import Image

from paligemma_onnx.runtime.console import echo_stderr
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
ZOOM = 3  # scenes are small, and labels are to be read


def run_demo(output: Path | None, progress: Progress) -> Image.Image:
    """Export the shipped model, ask it about the shipped scene, and draw what it found.

    Args:
        output: gets the bundle; None puts it in a folder that is removed.
        progress: told what happens.

    Returns:
        The scene with boxes and masks, enlarged.
    """
    temporary = tempfile.TemporaryDirectory(prefix="paligemma-onnx-")
    with shipped_model() as checkpoint, temporary if output is None else nullcontext(output) as kept:
        bundle = Path(kept) / "bundle"
        export(ExportRequest(checkpoint, bundle), progress, partial(self_check, progress=progress.stage))
        progress.stage("asking about the scene")
        model = PaliGemma.load(bundle)
        with as_file(files(__package__) / SCENE) as scene:
            found = list[Detection]()
            for prompt in PROMPTS:
                task, _, labels = prompt.partition(" ")
                if task in ("detect", "segment"):
                    objects = (
                        model.detect(scene, labels) if task == "detect" else model.segment(scene, labels)
                    )
                    found += objects
                    answer = objects.generation
                else:
                    answer = model.generate(scene, prompt)
                click.echo(f"{prompt!r}: {answer.text!r}")
                echo_stderr(_timings(answer))
            image = open_image(scene).rgb
        enlarged = image.resize((ZOOM * image.width, ZOOM * image.height), Image.Resampling.LANCZOS)
        return draw(enlarged, found)


def _timings(answer: Generation) -> str:
    seconds = answer.timings
    return (
        f"  vision {seconds.vision_s * 1e3:.0f} ms, prefill {seconds.prefill_s * 1e3:.0f} ms, "
        f"{len(answer.token_ids)} tokens at {seconds.tokens_per_second:.0f} a second"
    )
