"""Systems that are measured: decoders of bundles, and other tools with models of the same weights."""

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
from ..systems import System
from .catalogue import PEERS, Peer
from .decoder import TOKENS, capacity_for
from .environment import make_environment, pinned

Log = Callable[[str], object]  # takes a line of progress


@dataclass(frozen=True)
class PeersPlan:
    """Options of a run of `benchmarks.peers`."""

    subject: BenchmarkModel
    bundles: tuple[str, ...]  # precisions
    peers: tuple[str, ...]  # names of the catalogue
    rounds: int
    steps: int  # timed per round
    threads: int
    memory_bytes: int  # for all processes that are kept between rounds
    export_again: bool = False  # of bundles; other tools' models are always reused

    def arguments(self, model: Path) -> dict[str, Any]:
        """Return the arguments of a `Decoder`."""
        capacity = capacity_for(TOKENS, self.steps)
        return {"model": str(model), "threads": self.threads, "steps": self.steps, "capacity": capacity}

    def as_json(self) -> dict[str, Any]:
        """Return the options under the keys of the JSON document."""
        fields = asdict(self) | {"subject": self.subject.name, "tokens": TOKENS}
        return fields | {"room": fields.pop("memory_bytes")}


def make_systems(checkpoint: Path, text: Path, plan: PeersPlan, logs: Path, log: Log) -> Iterator[System]:
    """Yield bundles, then other tools; the result of one that cannot be made says why.

    Args:
        checkpoint: the whole model; bundles and models are made next to it.
        text: the checkpoint of its language model.
        plan: what to measure.
        logs: folder for the output of commands.
        log: receives progress.
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
        except (ExportFailed, BundleError) as failed:  # bundles of earlier versions may no longer be readable
            result.failure = f"not made: {failed}"
            log(f"{name}: {result.failure}")
        yield System(result, process)


def _bundle(precision: str, checkpoint: Path, plan: PeersPlan, logs: Path, result: Result) -> ProcessSpec:
    """Make a bundle; the size reported is that of its decoder's files, the cost that of the whole bundle."""
    log = logs / f"export-{precision}.log"
    bundle, cost = make_bundle(checkpoint, precision, log=log, again=plan.export_again)
    manifest = read_manifest(bundle)
    vision = manifest.graphs.vision_encoder.file.removesuffix(".onnx")
    files = tuple(bundle / name for name in manifest.files if not name.startswith(vision))
    result.export = Export(cost.seconds, cost.peak, _bytes(files))
    module = "benchmarks.peers.bundle_decoder"
    return ProcessSpec(precision, module, "BundleDecoder", plan.arguments(bundle), files)


def _peer(peer: Peer, text: Path, plan: PeersPlan, logs: Path, result: Result) -> ProcessSpec:
    """Make a tool's environment, and its model of the checkpoint."""
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
