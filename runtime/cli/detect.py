"""The `detect` and `segment` commands: print objects to stdout and optionally draw them on the image."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from json import dumps
from pathlib import Path
from typing import Any

import click

from ..cancellation import Cancellation
from ..console import echo, echo_stderr
from ..detection.detections import Detections
from ..errors import OptionError
from ..generation.types import Options
from ..interrupts import deferring_signals
from .generation_options import generation_options
from .options import ENGINE, MODEL, DeviceOptions, add_options, device_options
from .output_image import output_image
from .parameters import IMAGE, JSON, Command, PathType, TextType

IMAGE_HELP = "Image file (JPEG, PNG, WebP, BMP, GIF or TIFF)."


def _common_options(command: Command) -> Command:
    return add_options(
        command,
        MODEL,
        click.option("--image", metavar="FILE", type=IMAGE, required=True, help=IMAGE_HELP),
        click.option(
            "--draw",
            metavar="FILE",
            type=PathType(dir_okay=False),
            help="Write the image with the objects drawn on it to FILE (.png, .jpg or .webp).",
        ),
        generation_options,
        device_options,
        ENGINE,
        JSON,
        click.argument("labels", type=TextType()),
    )


@click.command()
@_common_options
def detect(**arguments: Any) -> None:
    """Find objects in an image and print their bounding boxes.

    LABELS names the objects to find, separated by semicolons: "cat" or "cat ; dog".

    Prints one line per object: label, left, top, right and bottom edge in pixels, separated by tabs.
    """
    _find_objects("detect", **arguments)


@click.command()
@_common_options
def segment(**arguments: Any) -> None:
    """Find objects in an image and print their bounding boxes and masks.

    LABELS names the objects to find, separated by semicolons: "cat" or "cat ; dog".

    Prints one line per object: label, left, top, right and bottom edge in pixels, and the mask's area in
    pixels, separated by tabs. --json includes the masks, run-length encoded as in COCO. The bundle must
    contain a mask decoder (see `export --mask-decoder`).
    """
    _find_objects("segment", **arguments)


def _find_objects(
    task: str,
    *,
    model: Path,
    image: str,
    labels: str,
    draw: Path | None,
    options: Options,
    device: DeviceOptions,
    engine: str,
    json: bool,
) -> None:
    if draw is not None and _is_same_file(draw, image):
        raise OptionError(f"{draw}: is the input image; choose another --draw")
    cancel = Cancellation()
    request_options: Options = {**options, "cancel": cancel}
    with ExitStack() as outputs:
        save = None if draw is None else outputs.enter_context(output_image(draw, "--draw"))
        loaded = device.load(model, engine)
        find = loaded.segment if task == "segment" else loaded.detect
        # Python handles signals in the main thread between bytecodes: a graph run there would delay Ctrl-C.
        with ThreadPoolExecutor(1) as worker:
            future = worker.submit(find, image, labels, **request_options)
            try:
                detections = future.result()
            finally:
                cancel.cancel()
        for warning in detections.warnings:
            echo_stderr(f"warning: {warning}")
        with deferring_signals():  # a signal leaves the image and the printed detections, or neither
            try:
                if save is not None:
                    save(detections.drawn())
                    outputs.close()
            finally:  # the detections are printed even if the image cannot be written
                if json:
                    echo(dumps(detections.as_json()))
                else:
                    echo(_lines(detections), end="\n" if detections else "")


def _is_same_file(one: Path, other: str) -> bool:
    try:
        return one.samefile(other)
    except (OSError, ValueError):  # one of them does not exist, which is reported later
        return False


def _lines(detections: Detections) -> str:
    """Return one line per object, its fields separated by tabs."""
    lines = []
    for detection in detections.objects:
        numbers = [f"{edge:.1f}" for edge in detection.pixels]
        if detection.mask is not None:
            numbers.append(str(int(detection.mask.array.sum())))
        lines.append("\t".join([" ".join(detection.label.split()), *numbers]))
    return "\n".join(lines)
