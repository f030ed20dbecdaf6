"""What the commands export, validate and demo do, from their options to the line they print."""

from __future__ import annotations

import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import click
import numpy as np

from paligemma_onnx.model.checkpoint.errors import CheckpointError
from paligemma_onnx.runtime.bundle.integrity import check_files
from paligemma_onnx.runtime.bundle.manifest import read_manifest
from paligemma_onnx.runtime.cli.output_image import output_file, output_image
from paligemma_onnx.runtime.engine.devices import choose_placement
from paligemma_onnx.runtime.errors import MismatchError, OptionError
from paligemma_onnx.runtime.resource_errors import translate_resource_errors
from paligemma_onnx.runtime.text.tokenizer import PromptTokenizer

from ..bundle.draft_manifest import draft_manifest
from ..bundle.manifest_facts import first_difference
from ..demo.demo import run_demo
from ..exporter import ExportRequest, export
from ..report.findings import collect_report_data
from ..report.html_page import page
from ..report.input_images import load_input_image
from ..report.json_report import as_json as validation_json
from ..report.text_table import table
from ..source import Source, open_source
from ..sources.hub import resolve_checkpoint
from ..validation import self_check as checks
from ..validation.reference_outputs import ReferenceModel
from ..validation.validate import validate
from .progress import TerminalProgress


def run_export(
    checkpoint: str,
    output: Path,
    *,
    precision: str,
    adapter: Path | None,
    mask_decoder: Path | None,
    force: bool,
    strict: bool,
    validate: bool,
) -> None:
    """Export, and say what was written."""
    request = ExportRequest(
        resolve_checkpoint(checkpoint),
        output,
        precision=precision,
        adapter=adapter,
        mask_decoder=mask_decoder,
        force=force,
        strict=strict,
    )
    with TerminalProgress() as progress:
        check = partial(checks.self_check, progress=progress.stage) if validate else None
        manifest = export(request, progress, check)
    size = sum(spec.bytes for spec in manifest.files.values())
    verdict = "checked against torch" if validate else "not checked"
    click.echo(f"{output}: bundle {manifest.bundle_id}, {size / 1e9:.2f} GB, {precision}, {verdict}")


def run_validate(
    bundle: Path,
    checkpoint: str,
    *,
    adapter: Path | None,
    mask_decoder: Path | None,
    images: tuple[str, ...],
    prompts: tuple[str, ...],
    steps: int,
    reference: str,
    device: str,
    threads: int | None,
    as_json: bool,
    html: Path | None,
) -> None:
    """Validate, print the report, and write it as a page.

    Raises:
        MismatchError: they are not the same model; both reports are there all the same, unless they differ
            in shape, so that nothing can be compared.
        OptionError: the page cannot be written; nothing has been computed then.
    """
    manifest = read_manifest(bundle)
    check_files(bundle, manifest)
    # On a CPU, graphs for a GPU are computed in float32 and rounded (float32_emulation.py).
    devices = tuple(dict.fromkeys((*manifest.precision.devices, "cpu")))
    placement = choose_placement(device, threads, runs_on=devices)
    with ExitStack() as outputs:
        file = None if html is None else outputs.enter_context(output_file(html, "--html"))
        started = time.perf_counter()
        source = open_source(resolve_checkpoint(checkpoint), adapter, mask_decoder)
        if manifest.graphs.mask_decoder is not None and source.mask_decoder is None:
            raise OptionError(
                f"{bundle} has a mask decoder and {checkpoint} has none; give its --mask-decoder"
            )
        if different := first_difference(manifest, draft_manifest(source, manifest.precision.name)):
            raise MismatchError(f"{bundle} is not {checkpoint}: {different}")
        tokenizer = PromptTokenizer.load(bundle / manifest.tokens.file)
        seen = [load_input_image(image, manifest.image) for image in images or (None,)]
        pixel_values, prompts = np.stack([one.pixels for one in seen]), prompts or checks.PROMPTS
        inputs = checks.build_validation_inputs(manifest, tokenizer, pixel_values, prompts, steps)
        with TerminalProgress() as progress, translate_resource_errors(str(bundle)):
            validation = validate(
                bundle,
                manifest,
                source=source.weights(manifest.precision.name),
                constants=source.constants,
                load_reference=lambda: _reference(reference, source, adapter),
                mask_decoder=None if manifest.graphs.mask_decoder is None else source.mask_decoder,
                inputs=inputs,
                placement=placement,
                progress=progress.stage,
            )
        findings = collect_report_data(
            validation,
            manifest,
            tokenizer,
            prompts=prompts,
            pictures=tuple(one.pictured for one in seen),
            checkpoint=checkpoint,
            adapter=None if adapter is None else str(adapter),
            seconds=time.perf_counter() - started,
        )
        try:
            if file is not None:
                file.write(page(findings, [one.embedded for one in seen]).encode())
                outputs.close()
        finally:  # the report is printed even if the disk is full
            click.echo(validation_json(findings) if as_json else table(validation))
    if findings.problem is not None:
        raise MismatchError(f"{bundle} is not {checkpoint}: {findings.problem}")


def _reference(kind: str, source: Source, adapter: Path | None) -> tuple[str, ReferenceModel]:
    if kind == "torch":
        return checks.torch_reference(source)
    if adapter is not None:
        raise CheckpointError("--reference transformers takes no --adapter; merge it with peft first")
    try:
        from ..validation.transformers_reference import TransformersReference  # noqa: PLC0415  optional, and slow to import
    except ModuleNotFoundError as error:
        raise CheckpointError(
            f"--reference transformers needs {error.name}: `pip install transformers`"
        ) from None
    model = TransformersReference(source.folder)
    return model.name, model


def run_demo_in(output: Path | None, picture: Path) -> None:
    """Run the demo in a folder that is kept, or in one that is removed.

    Raises:
        OptionError: the folder is not empty or cannot be made, or the picture cannot be written.
    """
    with output_image(picture, "--picture") as save:
        if output is not None:
            try:
                output.mkdir(parents=True, exist_ok=True)
                occupied = any(output.iterdir())
            except OSError as error:
                raise OptionError(
                    f"{output}: cannot be made ({error.strerror}); choose another --output"
                ) from error
            if occupied:
                raise OptionError(f"{output}: is not empty; choose another --output")
        with TerminalProgress() as progress:
            save(run_demo(output, progress))
    click.echo(f"{picture}: the scene with boxes and masks drawn in")
    click.echo("The model is small and knows drawn scenes like this one, not photographs.")
