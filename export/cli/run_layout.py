"""Implementation of `export` and `validate` for the layouts of other tools."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from json import dumps, loads
from pathlib import Path
from typing import Literal

from paligemma_onnx.runtime.bundle.layout_record import LayoutName, check_layout_files
from paligemma_onnx.runtime.bundle.schema import Device
from paligemma_onnx.runtime.cli.output_image import output_file
from paligemma_onnx.runtime.console import echo
from paligemma_onnx.runtime.engine.devices import choose_placement
from paligemma_onnx.runtime.errors import MismatchError, OptionError
from paligemma_onnx.runtime.interrupts import deferring_signals
from paligemma_onnx.runtime.resource_errors import translate_resource_errors
from paligemma_onnx.runtime.text.tokenizer import PromptTokenizer

from ..bundle.draft_manifest import draft_manifest
from ..bundle.manifest_facts import describe_precision, find_difference
from ..exporter import ExportRequest
from ..layouts.check_layout import check_layout, validate_layout
from ..layouts.layout import PRECISION_NAMES, check_dtypes
from ..layouts.write_layout import LayoutRequest, export_layout
from ..report.html_page import render_page
from ..report.json_report import to_json
from ..report.report_data import collect_report_data
from ..report.text_table import format_table
from ..source import open_source
from ..sources.hub import resolve_adapter, resolve_checkpoint
from ..validation import self_check as checks
from .progress import TerminalProgress
from .run import load_images, open_reference, print_exported, stack_pixels


def check_options(
    layout: LayoutName | Literal["bundle"],
    dtypes: tuple[str, ...],
    precision: str | None,
    device: Device | None,
    mask_decoder: Path | None,
) -> None:
    """Raise OptionError if an option does not suit the layout."""
    if layout == "bundle" and dtypes:
        raise OptionError("--dtype is for --layout transformers.js and genai; a bundle has a --precision")
    if layout != "bundle" and (precision is not None or device is not None):
        raise OptionError(f"--layout {layout} has a --dtype, and neither --precision nor --device")
    if layout != "bundle" and mask_decoder is not None:
        raise OptionError(
            f"--layout {layout} has no mask decoder; leave out --mask-decoder, or export a bundle"
        )
    if layout != "bundle":
        check_dtypes(layout, dtypes)


def run_export_layout(
    request: ExportRequest, layout: LayoutName, dtypes: tuple[str, ...], *, validate: bool
) -> None:
    """Export a folder for another tool and print a line about it."""
    with TerminalProgress() as progress:
        check = partial(check_layout, progress=progress.stage) if validate else None
        record = export_layout(LayoutRequest(request, layout, dtypes), progress, check)
    what = f"layout {layout}, {', '.join(dtypes)}, {record.layout_id}"
    print_exported(request.output, what, record.files, validated=validate)


def run_validate_layout(
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
    """Compare the folder of a layout with its checkpoint, and print a report on each dtype.

    Raises:
        MismatchError: the graphs of a dtype do not compute what the checkpoint does.
        OptionError: an option is for bundles only, or an HTML page cannot be written. This is checked before
            anything is computed.
    """
    if device != "cpu" or mask_decoder is not None:
        raise OptionError(f"{bundle}: --device and --mask-decoder are for bundles; this folder is a layout")
    record = check_layout_files(bundle, lambda _: None)
    with ExitStack() as outputs:
        pages = _page_paths(html, record.dtypes).items()
        files = {dtype: outputs.enter_context(output_file(path, "--html")) for dtype, path in pages}
        started = time.perf_counter()
        source = open_source(
            resolve_checkpoint(checkpoint),
            tuple(map(resolve_adapter, adapter)),
            mask_decoder,
            tokenizer,
            config,
            record.model.base_weights,
        )
        manifest = replace(draft_manifest(source, "fp32"), producer=record.producer, files=record.files)
        if different := find_difference(record, manifest):
            raise MismatchError(f"{bundle} was not exported from {checkpoint}: {different}")
        images = load_images(image, manifest.image, reference, source)
        processors = f"this package and the processor of {checkpoint}"
        pixel_values, reference_pixels = stack_pixels(images, processors)
        prompts, prompt_tokenizer = prompt or checks.PROMPTS, PromptTokenizer.load(source.tokenizer)
        inputs = checks.build_validation_inputs(manifest, prompt_tokenizer, pixel_values, prompts, steps)
        with TerminalProgress() as progress, translate_resource_errors(str(bundle)):
            validations = validate_layout(
                bundle,
                record,
                source=source,
                load_reference=lambda: open_reference(reference, source),
                inputs=inputs,
                placement=choose_placement("cpu", threads),
                progress=progress.stage,
                reference_pixels=reference_pixels,
            )
        reports = {
            dtype: collect_report_data(
                validation,
                replace(manifest, precision=describe_precision(PRECISION_NAMES[dtype])),
                prompt_tokenizer,
                prompts=prompts,
                images=tuple(loaded.info for loaded in images),
                checkpoint=checkpoint,
                adapter=", ".join(adapter) or None,
                seconds=time.perf_counter() - started,
            )
            for dtype, validation in validations.items()
        }
        with deferring_signals():  # a signal leaves all reports or none
            try:
                for dtype, file in files.items():
                    file.write(render_page(reports[dtype], [loaded.embedded for loaded in images]).encode())
                outputs.close()
            finally:  # the report is printed even if the disk is full
                if json:
                    echo(dumps({dtype: loads(to_json(data)) for dtype, data in reports.items()}))
                else:
                    echo("\n\n".join(map(format_table, validations.values())))
    for dtype, data in reports.items():
        if data.problem is not None:
            raise MismatchError(f"{bundle} ({dtype}) differs from {checkpoint}: {data.problem}")


def _page_paths(html: Path | None, dtypes: tuple[str, ...]) -> dict[str, Path]:
    """Return the HTML page of each dtype. If there are several, report.html becomes report-q4.html."""
    if html is None:
        return {}
    if len(dtypes) == 1:
        return {dtypes[0]: html}
    return {dtype: html.with_stem(f"{html.stem}-{dtype}") for dtype in dtypes}
