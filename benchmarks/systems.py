"""Who takes part: bundles of each precision, and transformers in each dtype."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paligemma_onnx.model.skeleton import meta_model
from paligemma_onnx.runtime.bundle.manifest import read_manifest

from .exports import ExportFailed, make_bundle
from .lower_bounds import weight_bytes
from .measured_process import Contender
from .results import Result
from .sizes import Subject

BYTES = {"bf16": 2, "fp32": 4}  # of a weight, by the dtype in which transformers holds it


@dataclass(frozen=True)
class Plan:
    """What is measured, and how often."""

    subject: Subject
    precisions: tuple[str, ...]  # of bundles
    references: tuple[str, ...]  # dtypes of transformers
    batches: tuple[int, ...]  # pictures of a request; 1 is among them
    pasts: tuple[int, ...]  # slots of cache
    rounds: int
    tokens: int  # of each answer
    threads: int
    room: int  # bytes that processes may have together when they are kept between rounds
    export_again: bool

    @property
    def asked(self) -> dict[str, Any]:
        """Arguments that every contender takes."""
        return {"threads": self.threads, "tokens": self.tokens}


Entrant = tuple[Result, Contender | None]  # None: there is nothing to run


def bundles(checkpoint: Path, plan: Plan, logs: Path, say: Callable[[str], object]) -> Iterator[Entrant]:
    """A bundle of each precision, exported if need be."""
    for precision in plan.precisions:
        result = Result(precision)
        say(f"export {precision}")
        try:
            log = logs / f"export-{precision}.log"
            bundle, result.export = make_bundle(checkpoint, precision, log=log, again=plan.export_again)
        except ExportFailed as failed:
            result.failure = f"export: {failed}"
            say(f"{precision}: {result.failure}")
            yield result, None
            continue
        manifest = read_manifest(bundle)
        result.decoder_bytes = weight_bytes(bundle / manifest.graphs.decode.file)
        arguments = plan.asked | {"folder": str(bundle)}
        files = tuple(bundle / name for name in manifest.files)
        prepares = None if manifest.precision.is_float32 else bundle
        yield result, Contender(precision, "benchmarks.bundle", "Bundle", arguments, files, prepares)


def references(checkpoint: Path, plan: Plan) -> Iterator[Entrant]:
    """transformers on the checkpoint, in each dtype."""
    decoder = meta_model(plan.subject.config).language_model
    weights = sum(weight.numel() for weight in decoder.parameters())
    files = tuple(sorted(checkpoint.glob("*.safetensors")))
    for dtype in plan.references:
        result = Result(f"transformers {dtype}", decoder_bytes=weights * BYTES[dtype])
        arguments = plan.asked | {"folder": str(checkpoint), "dtype": dtype}
        yield result, Contender(result.name, "benchmarks.reference", "Reference", arguments, files)
