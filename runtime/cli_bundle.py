"""Commands about a bundle or this machine: verify, inspect, doctor."""

from __future__ import annotations

from dataclasses import asdict
from json import dumps
from pathlib import Path

import click

from . import doctor as installation
from . import inspection
from .manifest import read_manifest
from .verification import verify as verify_bundle

BUNDLE = click.argument("bundle", type=click.Path(path_type=Path))
JSON = click.option("--json", is_flag=True, help="Print one JSON object.")


@click.command()
@BUNDLE
@JSON
def verify(bundle: Path, json: bool) -> None:
    """Check every byte of BUNDLE against its manifest, and its graphs' inputs and outputs."""
    manifest = verify_bundle(bundle, lambda name: click.echo(f"checking {name}", err=True))
    if json:
        click.echo(dumps({"bundle_id": manifest.bundle_id, "files": len(manifest.files), "passed": True}))
    else:
        click.echo(f"{bundle}: {len(manifest.files)} files as exported, bundle {manifest.bundle_id}")


@click.command()
@BUNDLE
@JSON
def inspect(bundle: Path, json: bool) -> None:
    """Show what is in BUNDLE."""
    manifest = read_manifest(bundle)
    click.echo(dumps(inspection.facts(manifest)) if json else inspection.table(manifest))


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
