"""Implementation of the commands `export`, `validate` and `demo`, including the text that they print."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from shlex import quote
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from paligemma_onnx.model.checkpoint.errors import CheckpointError
from paligemma_onnx.runtime.bundle.integrity import check_files
from paligemma_onnx.runtime.bundle.manifest import MANIFEST, read_manifest
from paligemma_onnx.runtime.bundle.schema import FileSpec, ImageFacts
from paligemma_onnx.runtime.cli.output_image import output_file, output_image
from paligemma_onnx.runtime.console import echo, printable
from paligemma_onnx.runtime.engine.devices import choose_placement
from paligemma_onnx.runtime.errors import MismatchError, OptionError
from paligemma_onnx.runtime.interrupts import deferring_signals
from paligemma_onnx.runtime.resource_errors import translate_resource_errors
from paligemma_onnx.runtime.text.tokenizer import PromptTokenizer

from ..bundle.draft_manifest import draft_manifest
from ..bundle.manifest_facts import find_difference
from ..demo.demo import run_demo
from ..exporter import ExportRequest, export
from ..report.embedded_images import InputImage, load_input_image
from ..report.html_page import render_page
from ..report.json_report import to_json
from ..report.report_data import collect_report_data
from ..report.text_table import format_table
from ..source import Source, open_source
from ..sources.hub import resolve_adapter, resolve_checkpoint
from ..sources.jax_checkpoint import NPZ
from ..validation import self_check as checks
from ..validation.reference_outputs import ReferenceModel
from ..validation.validate import validate
from .progress import TerminalProgress

# Largest accepted difference between pixel values of this project and of transformers. Both round them to
# float32; the values of two neighbouring grey levels are 1 / 255 / std apart, and std is at most 1.
MAX_PIXEL_DIFFERENCE = 1e-4


def run_export(request: ExportRequest, *, validate: bool) -> None:
    """Export a bundle and print a line about the bundle."""
    with TerminalProgress() as progress:
        check = partial(checks.self_check, progress=progress.stage) if validate else None
        manifest = export(request, progress, check)
    print_exported(
        request.output,
        f"bundle {manifest.bundle_id}, {request.precision}",
        manifest.files,
        validated=validate,
    )


def print_exported(output: Path, what: str, files: Mapping[str, FileSpec], *, validated: bool) -> None:
    """Print the line about a new folder: its path, what it is, its size, and whether it was validated."""
    size = sum(spec.bytes for spec in files.values())
    checked = "compared with the PyTorch model" if validated else "not validated"
    echo(printable(f"{output}: {what}, {size / 1e9:.2f} GB, {checked}"))


def run_validate(
    *,
    bundle: Path,
    checkpoint: str,
    adapter: tuple[str, ...],
    mask_decoder: Path | None,
    tokenizer: Path | None,
    config: Path | None,
    image: tuple[str, ...],
    prompt: tuple[str, ...],
    steps: int,
    reference: str,
    device: str,
    threads: int | None,
    json: bool,
    html: Path | None,
) -> None:
    """Compare a bundle with its checkpoint, print the report, and optionally write it as an HTML page.

    Raises:
        MismatchError: bundle and checkpoint differ. The reports are complete, except if the shapes differ,
            because outputs of different shapes cannot be compared.
        OptionError: the HTML page cannot be written. This is checked before anything is computed.
    """
    manifest = read_manifest(bundle)
    if (Path(checkpoint) / MANIFEST).exists():
        raise CheckpointError(
            f"{checkpoint}: is a bundle; name the checkpoint that {bundle} was exported from"
        )
    check_files(bundle, manifest)
    # The CPU can emulate graphs for a GPU: it computes in float32 and rounds to half precision.
    devices = tuple(dict.fromkeys((*manifest.precision.devices, "cpu")))
    placement = choose_placement(device, threads, runs_on=devices)
    with ExitStack() as outputs:
        file = None if html is None else outputs.enter_context(output_file(html, "--html"))
        started = time.perf_counter()
        source = open_source(
            resolve_checkpoint(checkpoint),
            tuple(map(resolve_adapter, adapter)),
            mask_decoder,
            tokenizer,
            config,
            manifest.model.base_weights,
        )
        if manifest.graphs.mask_decoder is not None and source.mask_decoder is None:
            raise OptionError(f"{bundle} has a mask decoder, but {checkpoint} has none; give --mask-decoder")
        if different := find_difference(manifest, draft_manifest(source, manifest.precision.name)):
            raise MismatchError(f"{bundle} was not exported from {checkpoint}: {different}")
        prompt_tokenizer = PromptTokenizer.load(bundle / manifest.tokens.file)
        images = load_images(image, manifest.image, reference, source)
        pixel_values, reference_pixels = stack_pixels(images, f"{bundle} and the processor of {checkpoint}")
        prompts = prompt or checks.PROMPTS
        inputs = checks.build_validation_inputs(manifest, prompt_tokenizer, pixel_values, prompts, steps)
        with TerminalProgress() as progress, translate_resource_errors(str(bundle)):
            validation = validate(
                bundle,
                manifest,
                source=source,
                load_reference=lambda: open_reference(reference, source),
                inputs=inputs,
                placement=placement,
                progress=progress.stage,
                reference_pixels=reference_pixels,
            )
        data = collect_report_data(
            validation,
            manifest,
            prompt_tokenizer,
            prompts=prompts,
            images=tuple(loaded.info for loaded in images),
            checkpoint=checkpoint,
            adapter=", ".join(adapter) or None,
            seconds=time.perf_counter() - started,
        )
        with deferring_signals():  # a signal leaves both reports or none
            try:
                if file is not None:
                    file.write(render_page(data, [loaded.embedded for loaded in images]).encode())
                    outputs.close()
            finally:  # the report is printed even if the disk is full
                echo(to_json(data) if json else format_table(validation))
    if data.problem is not None:
        raise MismatchError(f"{bundle} differs from {checkpoint}: {data.problem}")


def load_images(
    paths: tuple[str, ...], facts: ImageFacts, reference: str, source: Source
) -> list[InputImage]:
    """Load the images of a comparison, or the generated image if there is none.

    The reference "transformers" preprocesses them with the checkpoint's own processor, too.
    """
    processor = (
        None if reference == "torch" else import_transformers(source).load_image_processor(source.path)
    )
    return [load_input_image(path, facts, processor) for path in paths or (None,)]


def stack_pixels(images: Sequence[InputImage], sides: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the pixel values of the runtime and of the reference, float32[M, 3, S, S] each.

    Raises:
        MismatchError: they differ. `sides` names both in the message.
    """
    pixel_values = np.stack([image.pixels for image in images])
    reference_pixels = np.stack([image.reference_pixels for image in images])
    compare_pixels(sides, pixel_values, reference_pixels)
    return pixel_values, reference_pixels


def compare_pixels(sides: str, bundle: NDArray[np.float32], reference: NDArray[np.float32]) -> None:
    """Raise MismatchError if the runtime and the reference preprocess an image differently."""
    if bundle.shape != reference.shape:
        problem = f"{bundle.shape[2:]} and {reference.shape[2:]} pixels"
    elif (largest := np.abs(bundle - reference).max()) > MAX_PIXEL_DIFFERENCE:
        problem = f"pixel values that differ by up to {largest:.2g}"
    else:
        return
    raise MismatchError(f"{sides} make {problem} of the same image; export the checkpoint again")


def open_reference(kind: str, source: Source) -> tuple[str, ReferenceModel]:
    """Return the name and the model of a value of --reference."""
    if kind == "torch":
        return checks.torch_reference(source)
    if source.checkpoint.adapter.changes:
        raise CheckpointError("--reference transformers does not support --adapter; merge it with PEFT first")
    model = import_transformers(source).TransformersReference(source.path)
    return model.name, model


def import_transformers(source: Source) -> ModuleType:
    """Return the module that runs transformers; raise CheckpointError if it cannot."""
    if source.path.suffix == NPZ:
        raise CheckpointError("--reference transformers cannot read an .npz archive; use torch")
    try:
        from ..validation import transformers_reference  # noqa: PLC0415  optional, and slow to import
    except ModuleNotFoundError as error:
        raise CheckpointError(
            f"--reference transformers needs {error.name}: `pip install transformers`"
        ) from None
    return transformers_reference


def run_demo_in(output: Path | None, picture: Path) -> None:
    """Run the demo. The bundle stays in the folder `output`, or is deleted if `output` is None.

    Raises:
        OptionError: the folder is not empty or cannot be created, or the image cannot be written.
    """
    with output_image(picture, "--picture") as save:
        if output is not None:
            try:
                output.mkdir(parents=True, exist_ok=True)
                occupied = any(output.iterdir())
            except OSError as error:
                raise OptionError(
                    f"{output}: cannot be created ({error.strerror}); choose another --output"
                ) from error
            if occupied:
                raise OptionError(f"{output}: is not empty; choose another --output")
        with TerminalProgress() as progress:
            save(run_demo(output, progress))
    echo(printable(f"{picture}: the example image with boxes and masks"))
    echo("The included model recognizes only drawn scenes like this one, not photographs.")
    first, folder = (
        ("`paligemma-onnx demo --output FOLDER`, then ", "FOLDER") if output is None else ("", output)
    )
    command = f"`paligemma-onnx web {quote(str(Path(folder, 'bundle')))} --serve`"
    echo(printable(f"To run it in the browser: {first}{command}"))
