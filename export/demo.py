"""The whole path in a minute, offline: the shipped model, its bundle, its answers about a shipped scene."""

from __future__ import annotations

import tempfile
from contextlib import nullcontext
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path

import click

from paligemma_onnx.runtime.answer import Generation
from paligemma_onnx.runtime.boxes import Found, read_objects
from paligemma_onnx.runtime.errors import OptionError
from paligemma_onnx.runtime.image import open_image
from paligemma_onnx.runtime.paligemma import PaliGemma
from paligemma_onnx.runtime.terminal import say

from .demo_picture import marked
from .exporter import ExportRequest, Progress, export
from .mask_decoder_file import read_mask_decoder
from .self_check import self_check
from .shipped import MASK_DECODER, shipped_model

SCENE = "scene.png"
PROMPTS = (
    "caption en",
    "answer en how many objects are there?",
    "answer en what does it say?",
    "detect circle ; star",
    "segment blue ring",
)


def run_demo(output: Path | None, picture: Path, progress: Progress) -> None:
    """Export the shipped model, ask it about the shipped scene, and draw what it found.

    Args:
        output: gets the bundle; None puts it in a folder that is removed.
        picture: file of the scene with boxes and masks.
        progress: told what happens.

    Raises:
        OptionError: the picture cannot be written.
    """
    temporary = tempfile.TemporaryDirectory(prefix="paligemma-onnx-")
    with shipped_model() as checkpoint, temporary if output is None else nullcontext(output) as kept:
        bundle = Path(kept) / "bundle"
        export(ExportRequest(checkpoint, bundle), progress, partial(self_check, progress=progress.stage))
        progress.stage("asking about the scene")
        model = PaliGemma.load(bundle)
        found: list[Found] = []
        with as_file(files("paligemma_onnx.export") / SCENE) as scene:
            for prompt in PROMPTS:
                answer = model.generate(scene, prompt)
                found += read_objects(answer.text).found
                click.echo(f"{prompt!r}: {answer.text!r}")
                say(_timings(answer))
            image = open_image(scene).rgb
        try:
            marked(image, found, read_mask_decoder(checkpoint / MASK_DECODER)).save(picture)
        except OSError as error:
            raise OptionError(
                f"{picture}: cannot be written ({error.strerror}); choose another --picture"
            ) from error
        click.echo(f"{picture}: the scene with {len(found)} boxes and masks drawn in")
        click.echo("The model is small and knows drawn scenes like this one, not photographs.")


def _timings(answer: Generation) -> str:
    seconds = answer.timings
    return (
        f"  vision {seconds.vision_s * 1e3:.0f} ms, prefill {seconds.prefill_s * 1e3:.0f} ms, "
        f"{len(answer.token_ids)} tokens at {seconds.tokens_per_second:.0f} a second"
    )
