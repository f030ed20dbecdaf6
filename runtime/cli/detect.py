"""`detect` and `segment`: objects on stdout, drawn into the picture on request."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from json import dumps
from pathlib import Path
from typing import Any, TypeVar

import click

from ..cancellation import Cancellation
from ..console import echo_stderr
from ..detection.detections import Detections
from ..paligemma import PaliGemma
from .options import (
    CONSTRAINED,
    DEVICE,
    GPU_MEMORY,
    MAX_IMAGE_PIXELS,
    MAX_NEW_TOKENS,
    MODEL,
    RELEASE_VISION,
    THREADS,
    options_of,
    sampling,
)
from .output_image import output_image

Command = TypeVar("Command", bound=Callable[..., Any])


def _options(command: Command) -> Command:
    for option in (
        click.argument("labels"),
        click.option("--json", is_flag=True, help="Print one JSON object."),
        RELEASE_VISION,
        MAX_IMAGE_PIXELS,
        GPU_MEMORY,
        THREADS,
        DEVICE,
        sampling,
        MAX_NEW_TOKENS,
        CONSTRAINED,
        click.option(
            "--draw",
            type=click.Path(path_type=Path, dir_okay=False),
            help="Write the picture with what was found here (PNG, JPEG or WebP).",
        ),
        click.option("--image", type=click.Path(), required=True, help="Image file."),
        MODEL,
    ):
        command = option(command)
    return command


@click.command()
@_options
def detect(**given: Any) -> None:
    """Find objects: LABELS is `cat`, or several: `cat ; dog`.

    Prints a line for each: label, then left, top, right and bottom in pixels, with tabs between them.
    """
    _run("detect", **given)


@click.command()
@_options
def segment(**given: Any) -> None:
    """Find objects with their masks: LABELS is `cat`, or several: `cat ; dog`.

    Prints a line for each: label, then left, top, right and bottom in pixels, and how many pixels the mask
    has, with tabs between them; with --json masks are COCO's run lengths. The bundle needs a mask decoder
    (`export --mask-decoder`).
    """
    _run("segment", **given)


def _run(
    task: str,
    *,
    model: Path,
    image: str,
    labels: str,
    draw: Path | None,
    constrained: bool,
    max_new_tokens: int | None,
    temperature: float,
    top_p: float,
    top_k: int,
    seed: int | None,
    device: str,
    threads: int | None,
    gpu_memory: int | None,
    max_image_pixels: int,
    release_vision: bool,
    json: bool,
) -> None:
    cancel = Cancellation()
    options = options_of(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=seed,
        constrained=constrained,
        max_image_pixels=max_image_pixels,
        cancel=cancel,
    )
    with ExitStack() as outputs:
        save = None if draw is None else outputs.enter_context(output_image(draw, "--draw"))
        loaded = PaliGemma.load(
            model,
            device=device,
            threads=threads,
            keep_vision=not release_vision,
            memory_limit=gpu_memory,
        )
        ask = loaded.segment if task == "segment" else loaded.detect
        # Signals reach the main thread between bytecodes: a graph that ran there would keep Ctrl-C waiting.
        with ThreadPoolExecutor(1) as worker:
            answer = worker.submit(ask, image, labels, **options)
            try:
                found = answer.result()
            finally:
                cancel.cancel()
        for warning in found.warnings:
            echo_stderr(f"warning: {warning}")
        try:
            if save is not None:
                save(found.drawn())
                outputs.close()
        finally:  # the detections are printed even if the image cannot be written
            click.echo(dumps(found.as_json()) if json else _lines(found), nl=json or bool(found))


def _lines(found: Detections) -> str:
    """One object a line."""
    lines = []
    for one in found.objects:
        numbers = [f"{edge:.1f}" for edge in one.pixels]
        if one.mask is not None:
            numbers.append(str(int(one.mask.array.sum())))
        lines.append("\t".join([" ".join(one.label.split()), *numbers]))
    return "\n".join(lines)
