"""A validation as a table for people and as data for machines."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict
from typing import Any

from .compare import Difference
from .validation import Validation

SCHEMA_VERSION = 1


def first_failure(validation: Validation) -> str:
    """One line about the worst of what is wrong."""
    if validation.weights.different:
        names, total = validation.weights.different, validation.weights.tensors
        return f"{len(names)} of {total} stored tensors differ from the checkpoint, first {names[0]}"
    failed = [difference for difference in validation.comparison.differences if not difference.passed]
    if failed:
        worst = max(failed, key=lambda difference: difference.relative)
        return (
            f"{worst.stage} {worst.name} is off by {worst.relative:.1e} of its largest value "
            f"(allowed {worst.limit:.0e})"
        )
    for agreement in validation.comparison.agreements:
        if not agreement.passed:
            return (
                f"{agreement.stage} row {agreement.row}: another first word, {agreement.top10} of 10 shared"
            )
    for run in validation.comparison.free_runs:
        if not run.passed:
            return f"row {run.row}: greedy ids part at step {run.parted}, and not at a near tie"
    return "nothing"


def as_json(validation: Validation) -> dict[str, Any]:
    """The whole validation as plain data."""
    return {"schema_version": SCHEMA_VERSION, "passed": validation.passed, **asdict(validation)}


def table(validation: Validation) -> str:
    """Worst errors by graph, agreement of words, and the verdict."""
    comparison = validation.comparison
    lines = [
        f"bundle     {validation.bundle_id} ({validation.precision}, {validation.device})",
        f"reference  {validation.reference}",
        "",
        f"weights    {validation.weights.tensors} tensors, {len(validation.weights.different)} different",
        "",
        f"{'':<10} {'worst absolute':>15} {'share of largest':>17} {'allowed':>9}   where",
    ]
    lines += [_row(name, worst) for name, worst in _worst(comparison.differences).items()]
    top1 = sum(agreement.top1 for agreement in comparison.agreements)
    ties = sum(agreement.near_tie and not agreement.top1 for agreement in comparison.agreements)
    top10 = min((agreement.top10 for agreement in comparison.agreements), default=0)
    lines += [
        "",
        f"first word {top1} of {len(comparison.agreements)} agree, {ties} near ties; "
        f"at least {top10} of the first 10 shared",
    ]
    for run in comparison.free_runs:
        words = f"{len(run.reference)} greedy ids"
        if run.parted is None:
            lines.append(f"row {run.row}      {words} equal")
        else:
            lines.append(
                f"row {run.row}      {words} part at {run.parted}{', a near tie' if run.near_tie else ''}"
            )
    verdict = "PASSED" if validation.passed else f"FAILED: {first_failure(validation)}"
    return "\n".join([*lines, "", verdict])


def _worst(differences: tuple[Difference, ...]) -> dict[str, Difference]:
    groups: dict[str, list[Difference]] = defaultdict(list)
    for difference in differences:
        graph = "decode" if difference.stage.startswith("step.") else difference.stage
        kind = difference.name.rpartition(".")[2]
        groups[graph if graph == "vision" else f"{graph} {kind}"].append(difference)
    return {name: max(group, key=lambda item: item.relative) for name, group in groups.items()}


def _row(name: str, worst: Difference) -> str:
    where = f"{worst.stage} {worst.name} {list(worst.where)}"
    return f"{name:<15} {worst.worst:>10.2e} {worst.relative:>17.2e} {worst.limit:>9.0e}   {where}"
