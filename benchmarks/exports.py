"""Exports as a user runs them, in a process that is watched."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from paligemma_onnx.export.cli.commands import export
from paligemma_onnx.runtime.bundle.manifest import read_manifest

from .measured_process import ROOT, how_it_ended
from .memory import Memory, PeakWatch
from .worker import LONGEST

COMMAND = "from paligemma_onnx.runtime.cli.main import main; main()"  # what `paligemma-onnx` is
ERROR = re.compile(r"(?:error|ERROR): (.+)|((?:\w+\.)*\w*(?:Error|Exception)\b.*)")


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


def make_bundle(
    checkpoint: Path,
    precision: str,
    *,
    log: Path,
    again: bool,
    options: Sequence[str] = (),
    limit_s: float | None = None,
) -> tuple[Path, Export]:
    """The bundle beside its checkpoint and what it cost, from an earlier run if today's code made it.

    Args:
        checkpoint: what is exported.
        precision: how.
        log: takes what the command prints.
        again: do not take an earlier run's.
        options: others of the command.
        limit_s: seconds that it may take.

    Raises:
        ExportFailed: with the command's own line.
    """
    bundle, code = checkpoint.with_name(f"{checkpoint.name}-{precision}"), exporting_code()
    if not again and (earlier := noted(bundle, code)) is not None:
        return bundle, earlier
    arguments = ["export", str(checkpoint), "--output", str(bundle), "--precision", precision, "--force"]
    seconds, peak = watch([sys.executable, "-c", COMMAND, *arguments, *options], log, limit_s)
    size = sum(spec.bytes for spec in read_manifest(bundle).files.values())
    made = Export(seconds, peak, size)
    note(bundle, made, code)
    return bundle, made


def exporting_code() -> str:
    """SHA-256 of the sources that decide what a bundle is."""
    sources = sorted(path for package in ("export", "model") for path in (ROOT / package).rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


def watch(command: Sequence[str], log: Path, limit_s: float | None = None) -> tuple[float, Memory]:
    """Run a command to its end.

    Args:
        command: program and arguments.
        log: takes what it prints, and nothing of an earlier run.
        limit_s: seconds after which it is ended; None: never.

    Returns:
        Seconds it took, and the most memory its process had.

    Raises:
        ExportFailed: with the command's own line.
    """
    started = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    looking = PeakWatch(process.pid)
    looking.start()
    try:
        code = process.wait(limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise ExportFailed(f"it took longer than {limit_s:.0f} s") from None
    finally:
        peak = looking.stop()
    if code != 0:
        raise ExportFailed(_last_error(log) or how_it_ended(code))
    return time.perf_counter() - started, peak


def noted(output: Path, code: str = "") -> Export | None:
    """What an output of an earlier run cost, if it is still there and the same code made it."""
    notes = _notes(output)
    if not (output.exists() and notes.exists()):
        return None
    found = json.loads(notes.read_text(encoding="utf-8"))
    if found.pop("code", "") != code:
        return None
    return Export(**{**found, "peak": Memory(**found["peak"])})


def note(output: Path, made: Export, code: str = "") -> None:
    """Keep beside an output what it cost, and what made it."""
    _notes(output).write_text(json.dumps({**asdict(made), "code": code}) + "\n", encoding="utf-8")


def _notes(output: Path) -> Path:
    return output.with_name(f"{output.name}.export.json")


def _last_error(log: Path) -> str | None:
    """The last line that says what was wrong: of our command, of pip, or of a traceback."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [match[1] or match[2] for line in lines if (match := ERROR.match(line))]
    return errors[-1][:LONGEST] if errors else None
