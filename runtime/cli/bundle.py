"""Commands about a bundle or this machine: verify, inspect, prepare, doctor."""

from __future__ import annotations

from dataclasses import asdict
from json import dumps
from pathlib import Path

import click

from ..bundle.manifest import read_manifest
from ..diagnostics import doctor as installation
from ..diagnostics import inspect as inspection
from ..diagnostics.verify import verify as verify_bundle
from ..engine import prepared_graphs as prepared
from .completion import complete_folders

BUNDLE = click.argument("bundle", type=click.Path(path_type=Path), shell_complete=complete_folders)
JSON = click.option("--json", is_flag=True, help="Print one JSON object.")


@click.command()
@BUNDLE
@JSON
def verify(bundle: Path, json: bool) -> None:
    """Check every byte of BUNDLE against its manifest, and its graphs' inputs and outputs."""
    manifest = verify_bundle(bundle, lambda text: click.echo(text, err=True))
    if json:
        click.echo(dumps({"bundle_id": manifest.bundle_id, "files": len(manifest.files), "passed": True}))
    else:
        click.echo(f"{bundle}: {len(manifest.files)} files as exported, bundle {manifest.bundle_id}")


@click.command()
@BUNDLE
@JSON
def inspect(bundle: Path, json: bool) -> None:
    """Show what is in BUNDLE: graphs, operators, bits by layer, and the memory that it takes here."""
    found = inspection.inspect_bundle(bundle, read_manifest(bundle))
    click.echo(dumps(inspection.facts(found)) if json else inspection.table(found))


@click.command()
@BUNDLE
@click.option("--remove", is_flag=True, help="Remove what an earlier `prepare` wrote.")
@JSON
def prepare(bundle: Path, remove: bool, json: bool) -> None:
    """Write BUNDLE's graphs as this machine's processor wants them, so that they open quickly.

    They go into the user's cache (or the folder that PALIGEMMA_ONNX_CACHE names) and take about twice the
    bundle's room. Whoever opens the bundle on this machine from then on takes them. Every byte of the bundle
    is checked first; then one graph after the other is opened and written.
    """
    if remove:
        gone = prepared.forget(bundle)
        if json:
            click.echo(dumps({"removed": None if gone is None else str(gone)}))
        else:
            click.echo(f"{bundle}: nothing was prepared" if gone is None else f"{bundle}: removed {gone}")
        return
    done = prepared.prepare(bundle, lambda text: click.echo(text, err=True))
    if json:
        click.echo(dumps(asdict(done)))
    else:
        click.echo(f"{bundle}: {done.bytes / 1e9:.2f} GB in {done.folder}, {done.seconds:.1f} s")


@click.command()
@JSON
@click.pass_context
def doctor(ctx: click.Context, json: bool) -> None:
    """Show versions, devices, threads and memory, what is missing, and how to get it.

    Ends with code 4 when no bundle can be run.
    """
    diagnosis = installation.diagnose()
    if json:
        click.echo(dumps({**asdict(diagnosis), "runs": diagnosis.runs}))
    else:
        click.echo(installation.table(diagnosis))
    ctx.exit(0 if diagnosis.runs else 4)
