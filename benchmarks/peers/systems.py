"""The measured systems of `benchmarks.peers`: decoders of bundles, and other tools with the same weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from paligemma_onnx.runtime.bundle.manifest import read_manifest
from paligemma_onnx.runtime.errors import BundleError

from ..exports import Export, ExportFailed, make_bundle, read_cost, run_measured, write_cost
from ..measured_process import ProcessSpec
from ..results import Result
from ..sizes import BenchmarkModel
from ..systems import System, prepared_system
from .catalogue import PEERS, Peer
from .decoder import TOKENS, capacity_for
from .environment import make_environment, pinned

Log = Callable[[str], object]  # function that prints a line of progress


@dataclass(frozen=True)
class PeersPlan:
    """Options of a run of `benchmarks.peers`."""

    subject: BenchmarkModel
    bundles: tuple[str, ...]  # precisions of the measured bundles
    peers: tuple[str, ...]  # keys of catalogue.PEERS
    rounds: int
    steps: int  # decode steps that are timed per round
    threads: int
    memory_bytes: int  # limit for all processes that stay loaded between rounds
    prepared: tuple[str, ...] = ()  # members of `bundles`: their prepared graphs are measured, too
    export_again: bool = False  # export bundles again; models of other tools are always reused

    def arguments(self, model: Path) -> dict[str, Any]:
        """Return the constructor arguments of a `Decoder` for the given file or folder."""
        capacity = capacity_for(TOKENS, self.steps)
        return {"model": str(model), "threads": self.threads, "steps": self.steps, "capacity": capacity}

    def as_json(self) -> dict[str, Any]:
        """Return the options as a dict for the JSON document."""
        return asdict(self) | {"subject": self.subject.name, "tokens": TOKENS}


def make_systems(checkpoint: Path, text: Path, plan: PeersPlan, logs: Path, log: Log) -> Iterator[System]:
    """Create and yield the bundles, then the models of other tools.

    If a system cannot be created, `result.failure` contains the reason.

    Args:
        checkpoint: checkpoint of the whole model; bundles are created next to it.
        text: checkpoint of the language model only; models of other tools are created next to it.
        plan: the systems to create, and the options.
        logs: folder for the output of commands.
        log: prints a line of progress.
    """
    for name in (*plan.bundles, *plan.peers):
        result = Result(name)
        process = None
        log(f"prepare {name}")
        try:
            if name in PEERS:
                process = _peer(PEERS[name], text, plan, logs, result)
            else:
                process = _bundle(name, checkpoint, plan, logs, result)
        except (ExportFailed, BundleError) as failed:  # a bundle of an earlier version may be unreadable
            result.failure = f"not created: {failed}"
            log(f"{name}: {result.failure}")
        yield System(result, process)
        if process is not None and name in plan.prepared:
            yield prepared_system(process, result, Path(process.arguments["model"]), logs)


def _bundle(precision: str, checkpoint: Path, plan: PeersPlan, logs: Path, result: Result) -> ProcessSpec:
    """Export a bundle, and return the process that runs its decoder.

    `result.export` has the time and memory of exporting the whole bundle, but the size of the decoder's
    files.
    """
    log = logs / f"export-{precision}.log"
    bundle, cost = make_bundle(checkpoint, precision, log=log, again=plan.export_again)
    manifest = read_manifest(bundle)
    vision = manifest.graphs.vision_encoder.file.removesuffix(".onnx")
    files = tuple(bundle / name for name in manifest.files if not name.startswith(vision))
    result.export = Export(cost.seconds, cost.peak, _bytes(files))
    module = "benchmarks.peers.bundle_decoder"
    return ProcessSpec(precision, module, "BundleDecoder", plan.arguments(bundle), files)


def _peer(peer: Peer, text: Path, plan: PeersPlan, logs: Path, result: Result) -> ProcessSpec:
    """Create the environment and the model of a tool, and return the process that runs the model."""
    result.tool = pinned(peer.environment, peer.distribution)
    python = make_environment(text.parent, peer.environment, logs / f"environment-{peer.environment}.log")
    output = text.with_name(f"{text.name}-{peer.name}")
    result.export = read_cost(output)
    if result.export is None:
        partial = output.with_name(f"{output.name}.partial")
        for folder in (output, partial):
            shutil.rmtree(folder, ignore_errors=True)
        command = peer.command(python, text, partial, plan.threads)
        seconds, peak = run_measured(command, logs / f"export-{peer.name}.log")
        result.export = Export(seconds, peak, _bytes(_files(partial)))
        partial.rename(output)
        write_cost(output, result.export)
    return ProcessSpec(
        peer.name,
        peer.module,
        peer.class_name,
        plan.arguments(output),
        _files(output),
        interpreter=str(python),
    )


def _files(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(path for path in folder.rglob("*") if path.is_file()))


def _bytes(files: tuple[Path, ...]) -> int:
    return sum(file.stat().st_size for file in files)
