"""Exports as a user runs them, in a process that is watched."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from paligemma_onnx.export.cli import export
from paligemma_onnx.runtime.manifest import read_manifest

from .contender import how_it_ended
from .memory import Memory, PeakWatch

COMMAND = "from paligemma_onnx.runtime.cli import main; main()"  # what `paligemma-onnx` is


@dataclass(frozen=True)
class Export:
    """What a bundle cost to make."""

    seconds: float
    peak: Memory
    bytes: int  # of the bundle


class ExportFailed(Exception):
    """The command ended with an error."""


def known_precisions() -> tuple[str, ...]:
    """What `paligemma-onnx export --precision` takes."""
    (kind,) = (option.type for option in export.params if option.name == "precision")
    assert isinstance(kind, click.Choice)
    return tuple(map(str, kind.choices))


def make_bundle(checkpoint: Path, precision: str, *, log: Path, again: bool) -> tuple[Path, Export]:
    """The bundle beside its checkpoint and what it cost, from an earlier run if both are there.

    Raises:
        ExportFailed: with the command's own line.
    """
    bundle = checkpoint.with_name(f"{checkpoint.name}-{precision}")
    notes = bundle.with_name(f"{bundle.name}.export.json")
    if bundle.exists() and notes.exists() and not again:
        noted = json.loads(notes.read_text(encoding="utf-8"))
        return bundle, Export(**{**noted, "peak": Memory(**noted["peak"])})
    arguments = ["export", str(checkpoint), "--output", str(bundle), "--precision", precision, "--force"]
    started = time.perf_counter()
    with log.open("wb") as errors:
        process = subprocess.Popen([sys.executable, "-c", COMMAND, *arguments], stdout=errors, stderr=errors)
    watch = PeakWatch(process.pid)
    watch.start()
    code = process.wait()
    peak = watch.stop()
    seconds = time.perf_counter() - started
    if code != 0:
        raise ExportFailed(_last_error(log) or how_it_ended(code))
    size = sum(spec.bytes for spec in read_manifest(bundle).files.values())
    made = Export(seconds, peak, size)
    notes.write_text(json.dumps(asdict(made)) + "\n", encoding="utf-8")
    return bundle, made


def _last_error(log: Path) -> str | None:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return errors[-1] if errors else None
