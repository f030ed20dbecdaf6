"""Run exports and other commands as processes, and measure their time and memory."""

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

from paligemma_onnx.export.precisions import PRECISIONS
from paligemma_onnx.runtime.bundle.manifest import read_manifest
from paligemma_onnx.runtime.engine.devices import parse_device

from .measured_process import ROOT, describe_exit
from .memory import Memory, PeakSampler
from .worker import MAX_ERROR_CHARS

COMMAND = "from paligemma_onnx.runtime.cli.main import main; main()"  # Python code of `paligemma-onnx`
# Error line in the output of paligemma-onnx or pip, or last line of a Python traceback.
ERROR = re.compile(r"(?:error|ERROR): (.+)|((?:\w+\.)*\w*(?:Error|Exception)\b.*)")


@dataclass(frozen=True)
class Export:
    """Cost of exporting a bundle, or of converting a model for another tool."""

    seconds: float
    peak: Memory  # peak memory of the exporting process
    bytes: int  # total size of the exported files


class ExportFailed(Exception):
    """Raised if an export or conversion command ends with an error."""


def precisions_for(device: str) -> tuple[str, ...]:
    """Return the precisions that run on a device (`cpu`, `cuda` or `cuda:N`)."""
    kind, _ = parse_device(device)
    return tuple(name for name, precision in PRECISIONS.items() if kind in precision.devices)


def make_bundle(
    checkpoint: Path, precision: str, *, log: Path, again: bool, options: Sequence[str] = ()
) -> tuple[Path, Export]:
    """Export a bundle next to its checkpoint, or reuse the bundle of an earlier run of the same code.

    Args:
        checkpoint: folder to export.
        precision: precision of the bundle.
        log: file for the output of the command.
        again: export even if an earlier run left a bundle.
        options: further options of `paligemma-onnx export`.

    Returns:
        The bundle's folder, and the cost of the export.

    Raises:
        ExportFailed: the command failed; the message is the command's error line.
    """
    bundle, code = checkpoint.with_name(f"{checkpoint.name}-{precision}"), exporting_code()
    if not again and (earlier := read_cost(bundle, code)) is not None:
        return bundle, earlier
    arguments = ["export", str(checkpoint), "--output", str(bundle), "--precision", precision, "--force"]
    seconds, peak = run_measured([sys.executable, "-c", COMMAND, *arguments, *options], log)
    size = sum(spec.bytes for spec in read_manifest(bundle).files.values())
    cost = Export(seconds, peak, size)
    write_cost(bundle, cost, code)
    return bundle, cost


def exporting_code() -> str:
    """Return the SHA-256 of all Python files in export/ and model/, which determine a bundle."""
    sources = sorted(path for package in ("export", "model") for path in (ROOT / package).rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


def run_measured(command: Sequence[str], log: Path) -> tuple[float, Memory]:
    """Run a command, and return its duration in seconds and the peak of its memory.

    Args:
        command: program and arguments.
        log: file that is overwritten with the output of the command.

    Raises:
        ExportFailed: the command failed; the message is the command's error line.
    """
    started = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    sampler = PeakSampler(process.pid)
    sampler.start()
    try:
        code = process.wait()
    finally:
        peak = sampler.stop()
    if code != 0:
        raise ExportFailed(failure_of(log, code))
    return time.perf_counter() - started, peak


def read_cost(output: Path, code: str = "") -> Export | None:
    """Return the cost that `write_cost` stored for an output.

    Return None if the output or its cost file does not exist, or if other code created the output.

    Args:
        output: a bundle, or a model of another tool.
        code: hash of the code that would create the output now; see `exporting_code`.
    """
    file = _cost_file(output)
    if not (output.exists() and file.exists()):
        return None
    fields = json.loads(file.read_text(encoding="utf-8"))
    if fields.pop("code", "") != code:
        return None
    return Export(**{**fields, "peak": Memory(**fields["peak"])})


def write_cost(output: Path, cost: Export, code: str = "") -> None:
    """Write the cost of an output, and the hash of the code that created it, to a file next to the output."""
    _cost_file(output).write_text(json.dumps({**asdict(cost), "code": code}) + "\n", encoding="utf-8")


def _cost_file(output: Path) -> Path:
    return output.with_name(f"{output.name}.export.json")


def failure_of(log: Path, code: int) -> str:
    """Return the reason why a command failed.

    The reason is the last error line in the log of the command, or the exit code if the log contains no error
    line.
    """
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [match[1] or match[2] for line in lines if (match := ERROR.match(line))]
    return errors[-1][:MAX_ERROR_CHARS] if errors else describe_exit(code)
