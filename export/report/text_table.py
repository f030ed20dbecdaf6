"""The validation report as a table for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from statistics import fmean

from paligemma_onnx.runtime.console import printable

from ..validation.measures import TOP, Comparison
from ..validation.validate import Validation, describe_failure
from .error_sections import format_error
from .grouping import by_output

HEADER = f"{'output':<15} {'largest error':>13} {'worst':>10} {'typical':>10}   {'limits':<13} location"
LEGEND = (
    "worst: largest error, divided by the reference's largest value",
    "typical: root mean square of the errors, divided by the root mean square of the reference's values",
    "limits: limit of worst / limit of typical",
)


def format_table(validation: Validation) -> str:
    """Return a text with the largest errors by graph and output, the agreement of tokens, and the verdict."""
    comparison, weights, failure = validation.comparison, validation.weights, describe_failure(validation)
    lines = [
        f"bundle      {validation.bundle_id} ({validation.precision}, {validation.device})",
        f"reference   {validation.reference}",
        f"weights     {weights.tensors} tensors compared, {len(weights.different)} differ",
        "",
        *_errors(comparison),
        "",
        *_tokens(comparison),
        "",
        "PASSED" if failure is None else f"FAILED: {failure}",
    ]
    return "\n".join(map(printable, lines))


def _errors(comparison: Comparison) -> Iterator[str]:
    yield HEADER
    for output, group in by_output(comparison.differences).items():
        tensor = max(group, key=attrgetter("relative" if comparison.exact else "rms"))
        worst, relative, rms = map(format_error, (tensor.worst, tensor.relative, tensor.rms))
        limits = f"{tensor.limits.worst:.0e} / {tensor.limits.rms:.0e}".replace("inf", "none")
        location = f"{tensor.stage} {tensor.name} {list(tensor.where)}"
        yield f"{output:<15} {worst:>13} {relative:>10} {rms:>10}   {limits:<13} {location}"
    yield from LEGEND


def _tokens(comparison: Comparison) -> Iterator[str]:
    agreements = comparison.agreements
    same = sum(agreement.top1 for agreement in agreements)
    ties = sum(agreement.near_tie and not agreement.top1 for agreement in agreements)
    shared = min((agreement.top10 for agreement in agreements), default=0)
    # Near ties are printed for float32 only: if any error is allowed, every pair of tokens is a near tie.
    near_ties = f", {ties} near ties" if comparison.exact else ""
    yield (
        f"top-1       {same} of {len(agreements)} next tokens agree{near_ties}; "
        f"at least {shared} of the top {TOP} shared"
    )
    divergences = [agreement.divergence for agreement in agreements]
    if divergences:
        yield f"divergence  {fmean(divergences):.2e} nats on average, {max(divergences):.2e} at most"
    for run in comparison.free_runs:
        tokens = f"row {run.row:<7} {len(run.reference)} greedy tokens"
        if run.diverged_at is None:
            yield f"{tokens} are equal"
        else:
            near_tie = ", a near tie" if comparison.exact and run.near_tie else ""
            yield f"{tokens} diverge at step {run.diverged_at}{near_tie}"
