"""Implementation of the commands `export`, `validate` and `demo`, including the text that they print."""

from __future__ import annotations

import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from paligemma_onnx.model.checkpoint.errors import CheckpointError
from paligemma_onnx.runtime.bundle.integrity import check_files
from paligemma_onnx.runtime.bundle.manifest import MANIFEST, read_manifest
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
from ..report.embedded_images import load_input_image
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
    size = sum(spec.bytes for spec in manifest.files.values())
    checked = "compared with the PyTorch model" if validate else "not validated"
    line = (
        f"{request.output}: bundle {manifest.bundle_id}, {request.precision}, {size / 1e9:.2f} GB, {checked}"
    )
    echo(printable(line))


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
        processor = (
            None if reference == "torch" else import_transformers(source).load_image_processor(source.path)
        )
        images = [load_input_image(path, manifest.image, processor) for path in image or (None,)]
        pixel_values, prompts = np.stack([loaded.pixels for loaded in images]), prompt or checks.PROMPTS
        reference_pixels = np.stack([loaded.reference_pixels for loaded in images])
        compare_pixels(f"{bundle} and the processor of {checkpoint}", pixel_values, reference_pixels)
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
