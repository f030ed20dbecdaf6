"""The export side's commands: export, validate, demo. Their work is in commands.py, which imports torch."""

from __future__ import annotations

from pathlib import Path

import click

from paligemma_onnx.runtime.bundle.schema import Device
from paligemma_onnx.runtime.cli.completion import complete_folders
from paligemma_onnx.runtime.cli.param_types import DeviceType
from paligemma_onnx.runtime.engine.devices import MAX_THREADS

from ..precisions import DEFAULT_PRECISIONS, PRECISIONS, choose_precision


class _Lines(click.types.StringParamType):
    """Text of which an environment variable may hold several, one a line."""

    envvar_list_splitter = "\n"


ADAPTER = click.option(
    "--adapter",
    type=click.Path(path_type=Path),
    shell_complete=complete_folders,
    help="PEFT LoRA folder to merge into the weights.",
)

MASK_DECODER = click.option(
    "--mask-decoder",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Weights that turn <seg> codes into masks, as in vae-oid.npz.  [default: mask_decoder.npz beside "
    "the checkpoint, if there is one]",
)


@click.command()
@click.argument("checkpoint", shell_complete=complete_folders)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    shell_complete=complete_folders,
    help="Folder of the bundle.",
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    help="How numbers are stored.  [default: fp32; with --device cuda bf16]",
)
@click.option(
    "--device", type=click.Choice(DEFAULT_PRECISIONS), help="What the bundle is for.  [default: any it can]"
)
@ADAPTER
@MASK_DECODER
@click.option("--force", is_flag=True, help="Replace the bundle that is there.")
@click.option("--strict", is_flag=True, help="Fail on NaN or infinity in the weights.")
@click.option("--validate/--no-validate", default=True, help="Check the graphs against torch.")
def export(
    checkpoint: str,
    output: Path,
    precision: str | None,
    device: Device | None,
    adapter: Path | None,
    mask_decoder: Path | None,
    force: bool,
    strict: bool,
    validate: bool,
) -> None:
    """Turn CHECKPOINT into a bundle of ONNX graphs that runs without torch.

    CHECKPOINT is a folder in Hugging Face layout (config.json, safetensors, tokenizer.json), or a hub id.
    The folder appears only when the graphs have been checked against torch.
    """
    from .run import run_export  # noqa: PLC0415  so that help needs no torch

    run_export(
        checkpoint,
        output,
        precision=choose_precision(precision, device),
        adapter=adapter,
        mask_decoder=mask_decoder,
        force=force,
        strict=strict,
        validate=validate,
    )


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path), shell_complete=complete_folders)
@click.option(
    "--checkpoint",
    required=True,
    shell_complete=complete_folders,
    help="What the bundle was exported from: folder or hub id.",
)
@ADAPTER
@MASK_DECODER
@click.option(
    "--image", type=click.Path(), multiple=True, help="Image to ask about.  [default: a synthetic one]"
)
@click.option(
    "--prompt", type=_Lines(), multiple=True, help="Prompt; each is a row of one batch.  [default: two]"
)
@click.option("--steps", type=click.IntRange(1, 1024), default=16, help="Decode steps to compare.")
@click.option(
    "--reference", type=click.Choice(["torch", "transformers"]), default="torch", help="Who is right."
)
@click.option("--device", type=DeviceType(), default="cpu", help="auto, cpu, cuda or cuda:N.")
@click.option("--threads", type=click.IntRange(1, MAX_THREADS), help="Threads of the CPU.  [default: all]")
@click.option("--json", is_flag=True, help="Print one JSON object.")
@click.option("--html", type=click.Path(path_type=Path), help="Write the report as a page, too.")
def validate(
    bundle: Path,
    checkpoint: str,
    adapter: Path | None,
    mask_decoder: Path | None,
    image: tuple[str, ...],
    prompt: tuple[str, ...],
    steps: int,
    reference: str,
    device: str,
    threads: int | None,
    json: bool,
    html: Path | None,
) -> None:
    """Hold BUNDLE against its checkpoint: weights, each graph, each layer's cache, each step.

    Ends with code 6 when they are not the same model.
    """
    from .run import run_validate  # noqa: PLC0415  so that help needs no torch

    run_validate(
        bundle,
        checkpoint,
        adapter=adapter,
        mask_decoder=mask_decoder,
        images=image,
        prompts=prompt,
        steps=steps,
        reference=reference,
        device=device,
        threads=threads,
        as_json=json,
        html=html,
    )


@click.command()
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    shell_complete=complete_folders,
    help="Keep the bundle in this folder.",
)
@click.option(
    "--picture",
    type=click.Path(path_type=Path, dir_okay=False),
    default="paligemma-onnx-demo.png",
    show_default=True,
    help="File of the scene with what was found.",
)
def demo(output: Path | None, picture: Path) -> None:
    """Export the small model that ships with the project and ask it about a drawn scene. Offline."""
    from .run import run_demo_in  # noqa: PLC0415  so that help needs no torch

    run_demo_in(output, picture)
