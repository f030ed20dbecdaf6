"""Run the GPU tests, time a 3B model on a GPU, and write one JSON file, all within a time budget.

python -m benchmarks.cuda --work DIR --json figures.json

The tests are those of tests/cuda/test_gpu.py, which use the shipped model. The figures are those of
`python -m benchmarks.real_size --device cuda`. The command downloads nothing.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from paligemma_onnx.export.precisions import PRECISIONS
from paligemma_onnx.runtime.cli.parameters import DeviceType

from ..options import SIDE, common_options, parse_names, parse_numbers, write_json
from ..report import baseline_of, read_figures, rows, table
from ..systems import COMPILED
from .checks import Check, full_size_checks, passed, read_tests, table_of_checks
from .steps import Run, Step

FAILED = 6  # exit code if a required check failed or did not run
PREPARING_SHARE = 0.6  # share of the budget for exports and tests; the rest is for timing
DEVICE_VARIABLE = "GPU_TEST_DEVICE"  # environment variable that contains the device of the tests


@common_options
@SIDE
@click.option(
    "--device", type=DeviceType(), default="cuda", help="cuda, cuda:N, or cpu to test the benchmark."
)
@click.option(
    "--precisions",
    callback=partial(parse_names, tuple(PRECISIONS)),
    help="Precisions of the timed bundles.  [default: bf16,int4-bf16; on a CPU fp32]",
)
@click.option("--batches", default="1,8,32", callback=parse_numbers, help="Numbers of images per request.")
@click.option(
    "--tokens", type=click.IntRange(2, 200), default=64, help="Number of tokens of each timed answer."
)
@click.option(
    "--budget", type=click.FloatRange(1), default=480.0, help="Maximum duration of the command in seconds."
)
def main(
    work: Path,
    json_file: Path | None,
    device: str,
    family: str,
    size: str,
    side: str,
    precisions: tuple[str, ...] | None,
    rounds: int,
    batches: tuple[int, ...],
    tokens: int,
    budget: float,
) -> None:
    """Test and time bundles on a GPU.

    The exit code is 6 if a test fails or does not run. A missed speed target is reported, but does not change
    the exit code. A 3B model needs 15 GB of disk and about 10 GB of GPU memory.
    """
    if device == "auto":
        raise click.UsageError("--device auto is not supported; choose cuda, cuda:N or cpu")
    if find_spec("pytest") is None:
        raise click.UsageError("the GPU tests need pytest, which is not installed; run `pip install pytest`")
    is_gpu, batches = device != "cpu", tuple(dict.fromkeys((1, *batches)))
    names = precisions or (("bf16", "int4-bf16") if is_gpu else ("fp32",))
    work = work.resolve()
    logs, junit = work / "logs", work / "tests.xml"
    figures = {name: work / f"{name}.json" for name in ("timing", "compiled")}
    logs.mkdir(parents=True, exist_ok=True)
    for file in (junit, *figures.values()):
        file.unlink(missing_ok=True)
    os.environ[DEVICE_VARIABLE] = device
    run = Run(budget, logs)
    plan = {"family": family, "size": size, "side": int(side), "device": device, "precisions": names}
    plan |= {"rounds": rounds, "batches": batches, "tokens": tokens, "budget_s": budget}
    model = ["--family", family, "--size", size, "--side", side, "--device", device, "--work", str(work)]
    real_size = [sys.executable, "-m", "benchmarks.real_size", *model]

    def export(precision: str) -> tuple[str, ...]:
        return *real_size, "--export-only", "--precisions", precision

    def timing(name: str, precision: str, reference: str, sizes: str, *options: str) -> tuple[str, ...]:
        systems = ["--precisions", precision, "--reference", reference, "--batches", sizes]
        counts = ["--rounds", str(rounds), "--tokens", str(tokens), "--json", str(figures[name])]
        return *real_size, *systems, *counts, *options

    def do(*steps: Step, share: float = 1.0) -> list[Check]:
        """Run steps, write all results so far to the JSON file, and return the checks."""
        run.do(*steps, share=share)
        checks = all_checks(run, junit, figures["timing"], names if is_gpu else ())
        if json_file is not None:
            document: dict[str, Any] = {"steps": {name: asdict(step) for name, step in run.outcomes.items()}}
            document |= {"checks": [asdict(check) for check in checks], "passed": passed(checks)}
            for name, file in figures.items():
                document[name] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
            write_json(json_file, plan, run.started, document)
        return checks

    selected = ("-m", "gpu") if is_gpu else ("-m", "not gpu", "-k", "cpu and fp32")
    pytest = (sys.executable, "-m", "pytest", "tests/cuda/test_gpu.py")
    tests = (*pytest, *selected, f"--junitxml={junit}")
    # The checkpoint comes first, because the GPU draws its random values and the tests measure the GPU's
    # memory. Exports run on the CPU, so they can run at the same time as the tests.
    do(Step("checkpoint", export(""), least_s=20))
    exports = [Step(f"export {name}", export(name), least_s=60) for name in names]
    do(Step("tests", tests, least_s=30, success=(0, 1)), *exports, share=PREPARING_SHARE)
    sizes = ",".join(map(str, batches))
    checks = do(Step("timing", timing("timing", ",".join(names), "bf16", sizes), least_s=40))
    if is_gpu:  # only one batch size, because each batch size needs a separate compilation
        command = timing("compiled", names[0], COMPILED, "1", "--pasts", "")
        checks = do(Step("compiled", command, least_s=60))
    for file in figures.values():
        results, pasts, limit = read_figures(file)
        if results:
            text = table(results, rows(batches, pasts, limit), limit, baseline_of(results))
            click.echo(f"{text}\n")
    click.echo(table_of_checks(checks))
    if not passed(checks):
        sys.exit(FAILED)


def all_checks(run: Run, junit: Path, timing: Path, precisions: Sequence[str]) -> list[Check]:
    """Return the outcomes of the tests, followed by the checks of the timed bundles.

    Args:
        run: the steps so far.
        junit: JUnit file of the tests.
        timing: JSON file of `benchmarks.real_size`.
        precisions: precisions of the timed bundles; empty on a CPU, where timings are not checked.
    """
    checks = read_tests(junit)
    if not any(check.required for check in checks):
        tests = run.outcomes.get("tests")
        checks.append(Check("tests", (tests and tests.why) or "no test ran", "pass", None))
    results, _, limit = read_figures(timing)
    return checks + (list(full_size_checks(results, limit, precisions)) if precisions else [])


if __name__ == "__main__":
    main()
