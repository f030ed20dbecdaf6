"""The export side's commands: export, validate, demo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import click
import numpy as np

from paligemma_onnx.model.errors import CheckpointError
from paligemma_onnx.runtime.errors import MismatchError
from paligemma_onnx.runtime.image import open_image, preprocess
from paligemma_onnx.runtime.manifest import Manifest, read_manifest
from paligemma_onnx.runtime.session import DEVICES, MOST_THREADS, Device, place
from paligemma_onnx.runtime.tokenizer import PromptTokenizer
from paligemma_onnx.runtime.verification import check_sizes

from . import self_check as checks
from .demo import run_demo
from .exporter import PRECISIONS, ExportRequest, Source, open_source
from .exporter import export as export_checkpoint
from .hub import resolve_checkpoint
from .progress import TerminalProgress
from .record import Reference
from .report import as_json as validation_json
from .report import first_failure, table
from .validation import validate as validate_bundle

ADAPTER = click.option(
    "--adapter", type=click.Path(path_type=Path), help="PEFT LoRA folder to merge into the weights."
)


@click.command()
@click.argument("checkpoint")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder of the bundle.")
@click.option("--precision", type=click.Choice(PRECISIONS), default="fp32", help="How numbers are stored.")
@ADAPTER
@click.option("--force", is_flag=True, help="Replace the bundle that is there.")
@click.option("--strict", is_flag=True, help="Fail on NaN or infinity in the weights.")
@click.option("--validate/--no-validate", default=True, help="Check the graphs against torch.")
def export(
    checkpoint: str,
    output: Path,
    precision: str,
    adapter: Path | None,
    force: bool,
    strict: bool,
    validate: bool,
) -> None:
    """Turn CHECKPOINT into a bundle of three ONNX graphs that runs without torch.

    CHECKPOINT is a folder in Hugging Face layout (config.json, safetensors, tokenizer.json), or a hub id.
    The folder appears only when the graphs have been checked against torch.
    """
    request = ExportRequest(
        resolve_checkpoint(checkpoint),
        output,
        precision=precision,
        adapter=adapter,
        force=force,
        strict=strict,
    )
    with TerminalProgress() as progress:

        def check(folder: Path, manifest: Manifest, source: Source) -> None:
            checks.self_check(folder, manifest, source, progress.stage)

        manifest = export_checkpoint(request, progress, check if validate else None)
    size = sum(spec.bytes for spec in manifest.files.values())
    verdict = "checked against torch" if validate else "not checked"
    click.echo(f"{output}: bundle {manifest.bundle_id}, {size / 1e9:.2f} GB, {precision}, {verdict}")


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--checkpoint", required=True, help="What the bundle was exported from: folder or hub id.")
@ADAPTER
@click.option(
    "--image",
    "images",
    type=click.Path(),
    multiple=True,
    help="Image to ask about.  [default: a synthetic one]",
)
@click.option(
    "--prompt", "prompts", multiple=True, default=checks.PROMPTS, help="Prompt; each is a row of one batch."
)
@click.option("--steps", type=click.IntRange(1, 1024), default=16, help="Decode steps to compare.")
@click.option(
    "--reference", type=click.Choice(["torch", "transformers"]), default="torch", help="Who is right."
)
@click.option("--device", type=click.Choice(DEVICES), default="cpu", help="Where the bundle runs.")
@click.option("--threads", type=click.IntRange(1, MOST_THREADS), help="Threads of the CPU.  [default: all]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def validate(
    bundle: Path,
    checkpoint: str,
    adapter: Path | None,
    images: tuple[str, ...],
    prompts: tuple[str, ...],
    steps: int,
    reference: str,
    device: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Hold BUNDLE against its checkpoint: weights, each graph, each layer's cache, each step.

    Ends with code 6 when they are not the same model.
    """
    manifest = read_manifest(bundle)
    check_sizes(bundle, manifest)
    placement = place(cast(Device, device), threads)
    folder = resolve_checkpoint(checkpoint)
    source = open_source(folder, adapter)
    tokenizer = PromptTokenizer.load(bundle / manifest.tokens.file)
    facts = manifest.image
    pictures = [
        preprocess(open_image(image).rgb, facts.size, facts.mean, facts.std, facts.rescale_factor)
        for image in images
    ] or [checks.synthetic_picture(facts.size)]
    with TerminalProgress() as progress:
        validation = validate_bundle(
            bundle,
            manifest,
            source=source.checkpoint,
            constants=source.constants,
            reference=lambda: _reference(reference, source, adapter),
            questions=checks.questions_for(manifest, tokenizer, np.stack(pictures), prompts, steps),
            placement=placement,
            progress=progress.stage,
        )
    click.echo(json.dumps(validation_json(validation)) if as_json else table(validation))
    if not validation.passed:
        raise MismatchError(f"{bundle} is not {checkpoint}: {first_failure(validation)}")


def _reference(kind: str, source: Source, adapter: Path | None) -> tuple[str, Reference]:
    if kind == "torch":
        return checks.torch_reference(source)
    if adapter is not None:
        raise CheckpointError("--reference transformers takes no --adapter; merge it with peft first")
    try:
        from .transformers_reference import TransformersReference  # noqa: PLC0415  optional, and slow to import
    except ModuleNotFoundError as error:
        raise CheckpointError(
            f"--reference transformers needs {error.name}: `pip install transformers`"
        ) from None
    model = TransformersReference(source.folder)
    return model.name, model


@click.command()
@click.option("--output", type=click.Path(path_type=Path), help="Keep checkpoint and bundle here.")
def demo(output: Path | None) -> None:
    """Make a small checkpoint with random weights, export it, and ask about a drawing. Offline."""
    with TerminalProgress() as progress:
        run_demo(output, progress)
