"""Is this bundle that checkpoint? The whole comparison, for `validate` and for the export's own check."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from paligemma_onnx.model.mask_decoder import MaskDecoder
from paligemma_onnx.runtime.bundle.schema import Manifest
from paligemma_onnx.runtime.engine.devices import Placement

from ..sources.tensor_source import TensorSource
from .compare import Comparison, compare
from .compare_weights import WeightComparison, compare_weights
from .float32_emulation import needs_emulation
from .one_session_at_a_time import open_sequentially
from .reference_outputs import ReferenceModel, ValidationInputs, run_reference, run_reference_masks


@dataclass(frozen=True)
class Validation:
    """The verdict and everything behind it."""

    bundle_id: str
    precision: str
    reference: str  # which implementation and version
    device: str
    rows: int
    steps: int
    weights: WeightComparison
    comparison: Comparison

    @property
    def passed(self) -> bool:
        """Whether the bundle computes what the checkpoint does."""
        return self.weights.passed and self.comparison.passed


def validate(
    folder: Path,
    manifest: Manifest,
    *,
    source: TensorSource,
    constants: Mapping[str, Tensor],
    reference: Callable[[], tuple[str, ReferenceModel]],
    mask_decoder: MaskDecoder | None,
    questions: ValidationInputs,
    placement: Placement,
    progress: Callable[[str], object],
    scratch: Path | None = None,
) -> Validation:
    """Hold a bundle against its checkpoint.

    Args:
        folder: the bundle.
        manifest: its manifest.
        source: the weights, as this precision stores them (`Source.weights`).
        constants: tensors that are no weights.
        reference: makes the model to compare with; called once, and let go before the bundle is opened.
        mask_decoder: what the bundle's is compared with; None where it has none.
        questions: what both sides are asked.
        placement: where the bundle runs.
        progress: told what comes next.
        scratch: where the reference's arrays wait; None takes the system's temporary folder. They are as
            large as the key-value caches of all rows.
    """
    weights = compare_weights(folder, manifest, source, constants, progress)
    with tempfile.TemporaryDirectory(prefix="paligemma-onnx-", dir=scratch) as kept_in:
        progress("reference: loading")
        name, model = reference()
        kept = run_reference(model, questions, Path(kept_in), progress)
        if mask_decoder is not None:
            run_reference_masks(mask_decoder, kept)
        del model  # the two sides are never in memory together
        gc.collect()
        runner = open_sequentially(folder, manifest, placement)
        comparison = compare(runner, questions, kept, progress)
    return Validation(
        bundle_id=manifest.bundle_id,
        precision=manifest.recipe.precision,
        reference=name,
        device=placement.name + (", as a GPU computes" if needs_emulation(manifest, placement) else ""),
        rows=len(questions.prompts),
        steps=questions.steps,
        weights=weights,
        comparison=comparison,
    )


def first_failure(validation: Validation) -> str:
    """One line about the worst of what is wrong."""
    if validation.weights.different:
        names, total = validation.weights.different, validation.weights.tensors
        return f"{len(names)} of {total} stored tensors differ from the checkpoint, first {names[0]}"
    failed = [difference for difference in validation.comparison.differences if not difference.passed]
    if failed:
        if validation.comparison.exact:
            worst = max(failed, key=lambda difference: difference.relative)
            off, of, allowed = worst.relative, "largest value", worst.limits.worst
        else:
            worst = max(failed, key=lambda difference: difference.rms)
            off, of, allowed = worst.rms, "root mean square", worst.limits.rms
        return f"{worst.stage} {worst.name} is off by {off:.1e} of its {of} (allowed {allowed:.0e})"
    for agreement in validation.comparison.agreements:
        if not agreement.passed:
            return (
                f"{agreement.stage} row {agreement.row}: another first word, {agreement.top10} of 10 shared"
            )
    for run in validation.comparison.free_runs:
        if not run.passed:
            return f"row {run.row}: greedy ids part at step {run.parted}, and not at a near tie"
    return "nothing"
