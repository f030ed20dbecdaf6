"""Who takes part: the decoders of bundles, and other tools, each with its own model of the same weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paligemma_onnx.runtime.bundle.manifest import read_manifest
from paligemma_onnx.runtime.errors import BundleError

from ..exports import Export, ExportFailed, make_bundle, note, noted, watch
from ..measured_process import Contender
from ..results import Result
from ..sizes import Subject
from ..systems import Entrant
from .catalogue import PEERS, Peer
from .decoder import TOKENS, slots_for
from .environment import make_environment, pinned

Say = Callable[[str], object]


@dataclass(frozen=True)
class Plan:
    """What is measured, and how often."""

    subject: Subject
    bundles: tuple[str, ...]  # precisions
    peers: tuple[str, ...]  # names of the catalogue
    rounds: int
    steps: int  # timed in a round
    threads: int
    room: int  # bytes that processes may have together when they are kept between rounds
    export_again: bool = False  # bundles; other tools make theirs once

    def asked(self, model: Path) -> dict[str, Any]:
        """Arguments of a decoder."""
        slots = slots_for(TOKENS, self.steps)
        return {"model": str(model), "threads": self.threads, "steps": self.steps, "slots": slots}


def entrants(checkpoint: Path, text: Path, plan: Plan, logs: Path, say: Say) -> Iterator[Entrant]:
    """Bundles, then peers; who cannot be made says so in its result.

    Args:
        checkpoint: the whole model, beside which everything is kept.
        text: its language model alone.
        plan: who.
        logs: folder of what commands print.
        say: told what happens.
    """
    for name in (*plan.bundles, *plan.peers):
        result = Result(name)
        contender = None
        say(f"prepares {name}")
        try:
            if name in PEERS:
                contender = _peer(PEERS[name], text, plan, logs, result)
            else:
                contender = _bundle(name, checkpoint, plan, logs, result)
        except (
            ExportFailed,
            BundleError,
        ) as failed:  # a bundle of an earlier version may not be read any more
            result.failure = f"not made: {failed}"
            say(f"{name}: {result.failure}")
        yield result, contender


def _bundle(precision: str, checkpoint: Path, plan: Plan, logs: Path, result: Result) -> Contender:
    """The decoder of a bundle; its size is that of the files it reads, its cost that of the whole bundle."""
    log = logs / f"export-{precision}.log"
    bundle, made = make_bundle(checkpoint, precision, log=log, again=plan.export_again)
    manifest = read_manifest(bundle)
    vision = manifest.graphs.vision_encoder.file.removesuffix(".onnx")
    files = tuple(bundle / name for name in manifest.files if not name.startswith(vision))
    result.export = Export(made.seconds, made.peak, _bytes(files))
    return Contender(precision, "benchmarks.peers.bundle_decoder", "Ours", plan.asked(bundle), files)


def _peer(peer: Peer, text: Path, plan: Plan, logs: Path, result: Result) -> Contender:
    """A tool in its environment, with the model it made of the checkpoint."""
    result.tool = pinned(peer.environment, peer.distribution)
    python = make_environment(text.parent, peer.environment, logs / f"environment-{peer.environment}.log")
    output = text.with_name(f"{text.name}-{peer.name}")
    result.export = noted(output)
    if result.export is None:
        partly = output.with_name(f"{output.name}.partly")
        for folder in (output, partly):
            shutil.rmtree(folder, ignore_errors=True)
        command = peer.command(python, text, partly, plan.threads)
        seconds, peak = watch(command, logs / f"export-{peer.name}.log")
        result.export = Export(seconds, peak, _bytes(_files(partly)))
        partly.rename(output)
        note(output, result.export)
    return Contender(
        peer.name, peer.module, peer.kind, plan.asked(output), _files(output), interpreter=str(python)
    )


def _files(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(path for path in folder.rglob("*") if path.is_file()))


def _bytes(files: tuple[Path, ...]) -> int:
    return sum(file.stat().st_size for file in files)
