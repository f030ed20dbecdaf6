"""Decide whether a bundle computes what its checkpoint does; `validate` and `export` use this module."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from paligemma_onnx.runtime.atomic_file import temporary_folder
from paligemma_onnx.runtime.bundle.schema import Manifest
from paligemma_onnx.runtime.engine.devices import Placement
from paligemma_onnx.runtime.graphs.model_runner import ModelRunner

from ..source import Source
from .compare import compare
from .compare_stored import QuantizedGraphs, explain_by_rounding
from .compare_weights import WeightComparison, compare_weights
from .float32_emulation import needs_emulation
from .measures import TOP, Comparison
from .reference_outputs import (
    ReferenceModel,
    ValidationInputs,
    load_and_run_reference,
    run_reference_masks,
)
from .sequential_sessions import graph_opener, open_sequentially


@dataclass(frozen=True)
class Validation:
    """Measurements of a bundle, and the verdict that follows from them."""

    bundle_id: str
    precision: str
    reference: str  # name of the reference: implementation and version
    device: str  # device that the bundle ran on
    rows: int  # number of prompts in the batch
    steps: int  # number of decode steps
    weights: WeightComparison
    comparison: Comparison

    @property
    def passed(self) -> bool:
        """Return whether the bundle computes what the checkpoint does."""
        return self.weights.passed and self.comparison.passed


def validate(
    folder: Path,
    manifest: Manifest,
    *,
    source: Source,
    load_reference: Callable[[], tuple[str, ReferenceModel]],
    inputs: ValidationInputs,
    placement: Placement,
    progress: Callable[[str], object],
    reference_pixels: NDArray[np.float32] | None = None,
    scratch: Path | None = None,
) -> Validation:
    """Compare a bundle with its checkpoint: first the stored weights, then the outputs.

    Args:
        folder: the bundle.
        manifest: the bundle's manifest.
        source: the checkpoint; it must have a mask decoder if the bundle has a mask decoder.
        load_reference: returns the name of the reference and the reference model. The function is called
            once, and the model is freed before the bundle is opened.
        inputs: the inputs of the reference and of the bundle.
        placement: the device on which the bundle runs.
        progress: called with a line of text before each stage.
        reference_pixels: what the reference's own preprocessing made of the images; None: as in `inputs`.
        scratch: folder for the reference's outputs, which are as large as the KV caches of all rows. None
            uses the system's temporary folder.
    """
    weights = compare_weights(folder, manifest, source, progress)

    def open_runner() -> ModelRunner:
        return open_sequentially(manifest, placement, graph_opener(folder, manifest, placement))

    with temporary_folder(scratch) as outputs:
        name, reference = load_and_run_reference(load_reference, inputs, reference_pixels, outputs, progress)
        if manifest.graphs.mask_decoder is not None and source.mask_decoder is not None:
            run_reference_masks(source.mask_decoder, reference)
        measured = name, compare(open_runner(), inputs, reference, progress)
    files = (manifest.graphs.vision_encoder, manifest.graphs.prefill, manifest.graphs.decode)
    vision, prefill, decode = (folder / graph.file for graph in files)
    name, comparison = explain_by_rounding(
        measured,
        manifest.precision.name,
        QuantizedGraphs((vision, prefill), (vision, decode)),
        open_runner,
        source=source,
        inputs=inputs,
        scratch=scratch,
        progress=progress,
    )
    emulated = " (float32 emulation of half precision)" if needs_emulation(manifest, placement) else ""
    return Validation(
        bundle_id=manifest.bundle_id,
        precision=manifest.precision.name,
        reference=name,
        device=placement.name + emulated,
        rows=len(inputs.prompts),
        steps=inputs.steps,
        weights=weights,
        comparison=comparison,
    )


def describe_failure(validation: Validation) -> str | None:
    """Return one line about the most important failure, or None if the validation passed."""
    return None if validation.passed else next(_failures(validation))


def _failures(validation: Validation) -> Iterator[str]:
    """Yield one line per failure, the most important failure first."""
    weights, comparison = validation.weights, validation.comparison
    if weights.different:
        count, first = len(weights.different), weights.different[0]
        yield f"{count} of {weights.tensors} stored tensors differ from the checkpoint; the first is {first}"
    elif not weights.passed:
        yield "the bundle has no stored tensors"
    excesses = []  # (error / limit, description) of each error above its limit
    for difference in comparison.differences:
        for error, limit, unit in (
            (difference.relative, difference.limits.worst, "largest value"),
            (difference.rms, difference.limits.rms, "root mean square"),
        ):
            if not error <= limit:
                text = f"is off by {error:.1e} of the reference's {unit} (limit {limit:.0e})"
                multiple = math.inf if math.isnan(error) else error / limit
                excesses.append((multiple, f"{difference.stage} {difference.name} {text}"))
    yield from (text for _, text in sorted(excesses, reverse=True))
    for agreement in comparison.agreements:
        if not agreement.passed:
            yield (
                f"{agreement.stage}, row {agreement.row}: another top-1 token, "
                f"{agreement.top10} of the top {TOP} tokens shared"
            )
    for run in comparison.free_runs:
        if not run.passed:
            yield f"row {run.row}: the greedy tokens diverge at step {run.diverged_at}, not at a near tie"
