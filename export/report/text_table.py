"""A validation as a table for people."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

from ..validation.measures import Comparison, Difference
from ..validation.validate import Validation, describe_failure
from .grouping import by_output, largest


def table(validation: Validation) -> str:
    """Worst errors by graph, agreement of words, and the verdict."""
    comparison = validation.comparison
    exact = comparison.exact
    lines = [
        f"bundle     {validation.bundle_id} ({validation.precision}, {validation.device})",
        f"reference  {validation.reference}",
        "",
        f"weights    {validation.weights.tensors} tensors, {len(validation.weights.different)} different",
        "",
        f"{'':<10} {'worst absolute':>15} {'share of largest':>17} {'of rms':>9} {'allowed':>8}   where",
    ]
    groups = by_output(comparison.differences).items()
    lines += [_row(name, largest(group, exact=exact), exact=exact) for name, group in groups]
    lines += ["", *_words(comparison)]
    verdict = "PASSED" if validation.passed else f"FAILED: {describe_failure(validation)}"
    return "\n".join([*lines, "", verdict])


def _words(comparison: Comparison) -> Iterator[str]:
    """What the reference and the bundle would say."""
    agreements, exact = comparison.agreements, comparison.exact
    top1 = sum(agreement.top1 for agreement in agreements)
    ties = sum(agreement.near_tie and not agreement.top1 for agreement in agreements)
    top10 = min((agreement.top10 for agreement in agreements), default=0)
    near = f", {ties} near ties" if exact else ""
    yield f"first word {top1} of {len(agreements)} agree{near}; at least {top10} of the first 10 shared"
    divergences = [agreement.divergence for agreement in agreements]
    if divergences:
        yield f"divergence {fmean(divergences):.2e} nats in the mean, {max(divergences):.2e} at most"
    for run in comparison.free_runs:
        words = f"{len(run.reference)} greedy ids"
        if run.diverged_at is None:
            yield f"row {run.row}      {words} equal"
        else:
            tie = ", a near tie" if exact and run.near_tie else ""
            yield f"row {run.row}      {words} part at {run.diverged_at}{tie}"


def _row(name: str, worst: Difference, *, exact: bool) -> str:
    where = f"{worst.stage} {worst.name} {list(worst.where)}"
    allowed = worst.limits.worst if exact else worst.limits.rms
    errors = f"{worst.worst:>10.2e} {worst.relative:>17.2e} {worst.rms:>9.2e}"
    return f"{name:<15} {errors} {allowed:>8.0e}   {where}"
