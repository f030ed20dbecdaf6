"""The commands `verify`, `inspect` and `prepare` for a bundle, and `doctor` for this installation."""

from __future__ import annotations

from dataclasses import asdict
from json import dumps
from pathlib import Path

import click

from ..bundle.layout_record import is_layout
from ..bundle.manifest import read_manifest
from ..console import echo, echo_stderr, printable
from ..diagnostics import doctor as installation
from ..diagnostics import inspect as inspection
from ..diagnostics.verify import verify as verify_bundle
from ..diagnostics.verify import verify_layout
from ..engine import prepared_graphs
from .parameters import BUNDLE, JSON


@click.command()
@BUNDLE
@JSON
def verify(bundle: Path, json: bool) -> None:
    """Verify that BUNDLE is complete and unchanged.

    BUNDLE may also be a folder that `export --layout` wrote for another tool.

    Compares the size and SHA-256 hash of every file with the manifest, and loads the graphs that are for
    CPUs. Run it after copying or downloading a bundle. Exits with code 4 if a check fails.
    """
    if is_layout(bundle):
        record = verify_layout(bundle, echo_stderr)
        if json:
            echo(dumps({"layout_id": record.layout_id, "files": len(record.files), "passed": True}))
        else:
            layout = f"layout {record.layout}, {record.layout_id}"
            echo(printable(f"{bundle}: verified {len(record.files)} files, {layout}"))
        return
    manifest = verify_bundle(bundle, echo_stderr)
    if json:
        echo(dumps({"bundle_id": manifest.bundle_id, "files": len(manifest.files), "passed": True}))
    else:
        echo(printable(f"{bundle}: verified {len(manifest.files)} files, bundle {manifest.bundle_id}"))


@click.command()
@BUNDLE
@JSON
def inspect(bundle: Path, json: bool) -> None:
    """Show the contents of BUNDLE and the memory it needs.

    Lists files, the operators of each graph, the bits per weight of each layer, KV cache sizes, and the
    estimated memory use on this machine. Weights are not loaded.
    """
    inspected = inspection.inspect_bundle(bundle, read_manifest(bundle))
    echo(dumps(inspection.facts(inspected)) if json else inspection.table(inspected))


@click.command()
@BUNDLE
@click.option("--remove", is_flag=True, help="Delete the prepared copy of BUNDLE instead.")
@JSON
def prepare(bundle: Path, remove: bool, json: bool) -> None:
    """Optimize BUNDLE for this machine's CPU so that it loads faster.

    Verifies the bundle, then writes its graphs, optimized by onnxruntime for this CPU, and their prepacked
    weights to the user's cache folder (or the folder in PALIGEMMA_ONNX_CACHE). Needs up to twice the
    bundle's size on disk. All later commands and programs that load the bundle on this machine use the
    prepared copy, and processes share its memory.
    """
    if remove:
        folder = prepared_graphs.remove_prepared(bundle)
        if json:
            echo(dumps({"removed": None if folder is None else str(folder)}))
        else:
            echo(printable(f"{bundle}: {'nothing to remove' if folder is None else f'removed {folder}'}"))
        return
    prepared = prepared_graphs.prepare(bundle, echo_stderr)
    if json:
        echo(dumps(asdict(prepared)))
    else:
        size = f"{prepared.bytes / 1e9:.2f} GB"
        echo(printable(f"{bundle}: wrote {size} to {prepared.folder} in {prepared.seconds:.1f} s"))


@click.command()
@JSON
@click.pass_context
def doctor(ctx: click.Context, json: bool) -> None:
    """Check the installation and this machine.

    Shows installed versions, usable devices, CPU threads and memory, and how to install what is missing.
    Exits with code 4 if no bundle can run here.
    """
    diagnosis = installation.diagnose()
    if json:
        echo(dumps({**asdict(diagnosis), "runs": diagnosis.runs}))
    else:
        echo(installation.table(diagnosis))
    ctx.exit(0 if diagnosis.runs else 4)
