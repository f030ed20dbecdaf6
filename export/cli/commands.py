"""The commands `export`, `validate` and `demo`.

A command imports torch only when it runs; printing the help does not import torch.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import click

from paligemma_onnx.runtime.bundle.layout_record import LayoutName, is_layout
from paligemma_onnx.runtime.bundle.schema import BaseWeights, Device
from paligemma_onnx.runtime.cli.completion import complete_folders
from paligemma_onnx.runtime.cli.parameters import BUNDLE, JSON, THREADS, LinesType, PathType, device_option
from paligemma_onnx.runtime.engine.devices import available_threads
from paligemma_onnx.runtime.interrupts import deferring_signals

from ..layouts.layout import LAYOUTS, SUFFIXES
from ..precisions import DEFAULT_PRECISIONS, PRECISIONS, choose_precision


@contextmanager
def _importing_torch() -> Iterator[None]:
    """Context in which a command imports modules that need torch."""
    # Torch would create a cache folder for its compiler, which exports do not use. Name an existing one.
    with deferring_signals():  # gettempdir writes a test file
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", tempfile.gettempdir())
    import torch  # noqa: PLC0415

    yield
    # Torch counts the processors of the machine and ignores the quota of a container.
    torch.set_num_threads(min(torch.get_num_threads(), available_threads()))


ADAPTER = click.option(
    "--adapter",
    metavar="ADAPTER[:WEIGHT]",
    type=LinesType(),
    multiple=True,
    shell_complete=complete_folders,
    help="LoRA adapter in PEFT format to merge into the weights: folder or Hub id, such as lora or lora:0.5. "
    "May be repeated; the weighted adapters are added.",
)
MASK_DECODER = click.option(
    "--mask-decoder",
    metavar="FILE",
    type=PathType(dir_okay=False),
    show_default="mask_decoder.npz in CHECKPOINT, if it exists",
    help="Weights of the decoder that turns <seg> tokens into masks, such as vae-oid.npz.",
)
TOKENIZER = click.option(
    "--tokenizer",
    metavar="FILE",
    type=PathType(dir_okay=False),
    help="tokenizer.json of the model: required for a JAX checkpoint (.npz), refused for others.",
)
CONFIG = click.option(
    "--config",
    metavar="FILE",
    type=PathType(dir_okay=False),
    show_default="derived from the shapes of the arrays",
    help="config.json for a JAX checkpoint (.npz).",
)


@click.command()
@click.argument("checkpoint", shell_complete=complete_folders)
@click.option(
    "--output",
    metavar="FOLDER",
    type=PathType(),
    required=True,
    shell_complete=complete_folders,
    help="Folder to write.",
)
@click.option(
    "--precision",
    metavar="NAME",
    type=click.Choice(PRECISIONS),
    show_default="fp32, or bf16 with --device cuda",
    help="Number format of a bundle's weights. For CPU and GPU: fp32; for CPUs: int8, int4 (fastest), "
    "int4-compact (least memory), int4-portable (for other runtimes, too); for GPUs: bf16, fp16, int4-bf16 "
    "(smallest).",
)
@click.option(
    "--layout",
    type=click.Choice(["bundle", *LAYOUTS]),
    default="bundle",
    help="Form of the output: a bundle of this package, or a folder for transformers.js or "
    "onnxruntime-genai.",
)
@click.option(
    "--dtype",
    metavar="NAME",
    type=click.Choice(SUFFIXES),
    multiple=True,
    show_default="fp32",
    help="Number format of a --layout other than bundle: fp32, fp16, q8 or q4. May be repeated for "
    "transformers.js; the first one becomes the default.",
)
@click.option(
    "--device",
    type=click.Choice(DEFAULT_PRECISIONS),
    show_default="any that the precision allows",
    help="Device the bundle must run on.",
)
@ADAPTER
@MASK_DECODER
@TOKENIZER
@CONFIG
@click.option(
    "--base-weights",
    type=click.Choice(get_args(BaseWeights)),
    default="stored",
    help="Rounding of the linear layers before adapters are merged: none (stored), or to 4 bits as in QLoRA "
    "training (nf4; nf4-double with double quantisation).",
)
@click.option("--force", is_flag=True, help="Replace an existing export in the output folder.")
@click.option("--strict", is_flag=True, help="Fail if a weight is NaN or infinite, instead of warning.")
@click.option(
    "--validate/--no-validate", default=True, help="Compare the output with the PyTorch model at the end."
)
def export(
    checkpoint: str,
    adapter: tuple[str, ...],
    precision: str | None,
    layout: LayoutName | Literal["bundle"],
    dtype: tuple[str, ...],
    device: Device | None,
    validate: bool,
    **request: Any,
) -> None:
    """Convert the PaliGemma checkpoint CHECKPOINT to a bundle of ONNX graphs.

    CHECKPOINT is a folder with config.json, safetensors and tokenizer.json; or the id of a model on the
    Hugging Face Hub such as google/paligemma2-3b-mix-224, optionally with @REVISION; or a JAX checkpoint of
    big_vision such as pt_224.npz, which needs --tokenizer.

    The output folder appears only if the export succeeds and the graphs agree with the PyTorch model.
    """
    with _importing_torch():
        from ..exporter import ExportRequest  # noqa: PLC0415  imports torch
        from ..sources.hub import resolve_adapter, resolve_checkpoint  # noqa: PLC0415
        from .run import run_export  # noqa: PLC0415
        from .run_layout import check_options, run_export_layout  # noqa: PLC0415

    check_options(layout, dtype, precision, device, request["mask_decoder"])
    folder, merged = resolve_checkpoint(checkpoint), tuple(map(resolve_adapter, adapter))
    if layout != "bundle":
        run_export_layout(
            ExportRequest(folder, adapters=merged, **request), layout, dtype or ("fp32",), validate=validate
        )
        return
    precision = choose_precision(precision, device)
    run_export(ExportRequest(folder, precision=precision, adapters=merged, **request), validate=validate)


@click.command()
@BUNDLE
@click.option(
    "--checkpoint",
    metavar="CHECKPOINT",
    required=True,
    shell_complete=complete_folders,
    help="Checkpoint the bundle was exported from: folder, Hub id or .npz file.",
)
@ADAPTER
@MASK_DECODER
@TOKENIZER
@CONFIG
@click.option(
    "--image",
    metavar="FILE",
    type=click.Path(),
    multiple=True,
    show_default="generated",
    help="Image for the comparison; may be repeated.",
)
@click.option(
    "--prompt",
    metavar="TEXT",
    type=LinesType(),
    multiple=True,
    show_default="two built-in prompts",
    help="Prompt for the comparison; repeat it for a batch of several rows.",
)
@click.option(
    "--steps",
    metavar="N",
    type=click.IntRange(1, 1024),
    default=16,
    help="Number of decode steps to compare.",
)
@click.option(
    "--reference",
    type=click.Choice(["torch", "transformers"]),
    default="torch",
    help="Model to compare with: this project's PyTorch model, or the one in Hugging Face transformers.",
)
@device_option("cpu")
@THREADS
@JSON
@click.option(
    "--html",
    metavar="FILE",
    type=PathType(),
    help="Also write the report to FILE as an HTML page; for a layout with several dtypes, a page for each.",
)
def validate(**arguments: Any) -> None:
    """Compare BUNDLE with the checkpoint it was exported from.

    BUNDLE may also be a folder that `export --layout` wrote for another tool.

    Compares the stored weights, the outputs of each graph, the KV cache of each layer, the logits of each
    decode step and the generated tokens. Exits with code 6 if they differ by more than rounding allows.
    """
    with _importing_torch():
        from .run import run_validate  # noqa: PLC0415  imports torch
        from .run_layout import run_validate_layout  # noqa: PLC0415

    (run_validate_layout if is_layout(arguments["bundle"]) else run_validate)(**arguments)


@click.command()
@click.option(
    "--output",
    metavar="FOLDER",
    type=PathType(),
    shell_complete=complete_folders,
    show_default="a temporary folder",
    help="Folder to keep the exported bundle in.",
)
@click.option(
    "--picture",
    metavar="FILE",
    type=PathType(dir_okay=False),
    default="paligemma-onnx-demo.png",
    help="Image file to write: the scene with boxes and masks.",
)
def demo(output: Path | None, picture: Path) -> None:
    """Export the small model included in this package and run it on an example image.

    Prints a caption, answers and detected objects, and writes an image with the boxes and masks drawn on it.
    Needs no network access.
    """
    with _importing_torch():
        from .run import run_demo_in  # noqa: PLC0415  imports torch

    run_demo_in(output, picture)
