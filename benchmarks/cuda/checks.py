"""Checks of a GPU run: outcomes of tests/cuda/test_gpu.py, and targets for the figures of a 3B model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from ..metrics import device_memory, step_at_batch
from ..report import Bounds, baseline_of, times
from ..results import Result

# Targets. The baseline is eager torch.
MAX_STEP = 1.6  # duration of a decode step of one sequence, divided by its lower bound
MIN_SPEEDUP = 3.0  # tokens per second, divided by those of the baseline
MAX_FIRST_TOKEN = 0.7  # time to the first token, divided by that of the baseline
MAX_SHOWN = 20  # maximum length in characters of a test's property in the table


@dataclass(frozen=True)
class Check:
    """A test or a figure, its target, and the outcome."""

    name: str
    measured: str
    target: str
    passed: bool | None  # None: the check was skipped, or its figure is unknown
    required: bool = True  # False: a missed target is reported, but does not fail the run
    properties: dict[str, str] = field(
        default_factory=dict
    )  # properties that a test stored in the JUnit file


def passed(checks: Sequence[Check]) -> bool:
    """Return whether every required check has passed."""
    return all(check.passed is True for check in checks if check.required)


def read_tests(junit: Path) -> list[Check]:
    """Return the outcome of each test in pytest's JUnit file, or an empty list if the file does not exist."""
    return [_test(case) for case in ElementTree.parse(junit).iter("testcase")] if junit.exists() else []


def _test(case: ElementTree.Element) -> Check:
    name, properties = (
        str(case.get("name")),
        {p.get("name", ""): p.get("value", "") for p in case.iter("property")},
    )
    if (skipped := case.find("skipped")) is not None:
        return Check(name, f"skipped: {skipped.get('message')}", "pass", None, required=False)
    for kind in ("failure", "error"):
        if (failed := case.find(kind)) is not None:
            message = failed.get("message", kind).partition("\n")[0]
            return Check(name, message, "pass", False, properties=properties)
    shown = [f"{key} {value}" for key, value in properties.items() if len(value) <= MAX_SHOWN]
    seconds = f"{float(case.get('time', 0)):.0f} s"
    return Check(name, ", ".join([seconds, *shown]), "pass", True, properties=properties)


def full_size_checks(
    results: Mapping[str, Result], limit: Bounds | None, precisions: Sequence[str]
) -> Iterator[Check]:
    """Yield the checks of the bundles' memory, which are required, and of their speed, which are not.

    Args:
        results: results of `benchmarks.real_size`, by name.
        limit: lower bounds; None if they were not measured.
        precisions: precisions of the bundles. The first one is compared with the baseline.
    """
    systems = {name: results.get(name, Result(name)) for name in precisions}
    for result in systems.values():
        yield _weights_once(result)
    for name, result in systems.items():
        bound = None if limit is None else limit.decode_s(result)
        step = times(result.median(step_at_batch(1)), bound)
        yield _target(f"{name}: decode step / lower bound", step, MAX_STEP)
    baseline, first = baseline_of(results), systems[precisions[0]]
    for label, metric in (("tokens/s", step_at_batch(1)), ("time to first token", "time_to_first_token_s")):
        ratio = times(first.median(metric), results[baseline].median(metric) if baseline else None)
        name = f"{first.name}: {label} / {baseline or 'torch'}"
        if metric == step_at_batch(1):
            yield _target(name, None if ratio is None else 1 / ratio, MIN_SPEEDUP, more=True)
        else:
            yield _target(name, ratio, MAX_FIRST_TOKEN)


def _weights_once(result: Result) -> Check:
    """Return a check that prefill and decode share their weights on the GPU.

    The limit is the size of the bundle plus half the weights of the decoder, so a second copy exceeds it.
    """
    name, taken = f"{result.name}: GPU memory, loaded", result.median(device_memory(None))
    if taken is None or result.export is None or result.decoder_bytes is None:
        return Check(name, result.failure or "not measured", "weights once", None)
    allowed = result.export.bytes + result.decoder_bytes / 2
    return Check(name, f"{taken / 1e9:.2f} GB", f"at most {allowed / 1e9:.2f} GB", taken <= allowed)


def _target(name: str, measured: float | None, target: float, *, more: bool = False) -> Check:
    text = f"at {'least' if more else 'most'} {target:g}"
    if measured is None:
        return Check(name, "not measured", text, None, required=False)
    reached = measured >= target if more else measured <= target
    return Check(name, f"{measured:.2f}", text, reached, required=False)


def table_of_checks(checks: Sequence[Check]) -> str:
    """Return the checks as a table in Markdown."""
    lines = ["| check | measured | target | |", "|---|---|---|---|"]
    for check in checks:
        outcome = {True: "passed", False: "missed", None: "unknown"}[check.passed]
        measured = check.measured.replace("|", "\\|")
        lines.append(f"| {check.name} | {measured} | {check.target} | {outcome} |")
    return "\n".join(lines)
