"""Measure a model of a published size with random weights, both as bundles and in torch.

python -m benchmarks.real_size --work DIR --json figures.json
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, cast

import click

from paligemma_onnx.export.precisions import PRECISIONS
from paligemma_onnx.runtime.cli.parameters import DeviceType
from paligemma_onnx.runtime.console import echo_stderr
from paligemma_onnx.runtime.engine.prepared_graphs import CACHE
from paligemma_onnx.runtime.text.tokenizer import PromptTokenizer

from . import plot
from .checkpoint import make_checkpoint
from .exports import precisions_for
from .lower_bounds import prefill_operations
from .measured_process import MeasuredProcess, ProcessFailed, ProcessSpec
from .metrics import PROMPT
from .options import SIDE, benchmark, parse_names, parse_numbers, write_json
from .report import Bounds, baseline_of, bounds, rows, table
from .results import Result
from .rounds import measure_prepared_start, measure_starts, persistent_processes, run_rounds
from .sizes import Family, Size, benchmark_model
from .systems import OPENVINO_PRECISIONS, REFERENCES, RealSizePlan, bundles, references

LIMITS = "limits"
# Bytes that are read to measure memory bandwidth; more than a processor's caches hold. A tiny model needs no
# valid bandwidth, so fewer bytes are read.
BUFFER, GPU_BUFFER, TINY_BUFFER = 1 << 30, 4 << 30, 1 << 26
PASTS = (264, 1024, 4096)  # numbers of cached tokens, close to those of images of 224, 448 and 896 pixels
# GPU memory in bytes that a process needs in addition to its weights: CUDA context, kernels, KV cache and
# activations.
GPU_OVERHEAD = 3 * 10**9
# Memory in bytes that a process on a CPU needs in addition to its weights: activations, and a second copy of
# packed 4-bit weights.
CPU_OVERHEAD = 3 * 10**9 // 2

Store = Callable[[Mapping[str, Result], Result, Bounds | None, Mapping[str, Any]], object]


def measure(work: Path, plan: RealSizePlan, store: Store) -> None:
    """Measure every system of the plan.

    Args:
        work: folder for checkpoint, bundles and logs.
        plan: the systems to measure, and the options.
        store: called after each round with the results of the systems by name, the measured limits of the
            hardware, the lower bounds computed from these limits, and facts about the GPU.
    """
    logs = work / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    os.environ[CACHE] = str(work / "prepared")  # inherited by the measured processes
    checkpoint = make_checkpoint(work, plan.subject, device=plan.device)
    systems = [*bundles(checkpoint, plan, logs, echo_stderr), *references(checkpoint, plan)]
    results = {system.result.name: system.result for system in systems}
    specs = [system.process for system in systems if system.process is not None]
    gpu = _gpu_facts(plan, logs) if plan.is_gpu else {}
    if plan.is_gpu or not plan.starts:
        overhead = GPU_OVERHEAD if plan.is_gpu else CPU_OVERHEAD
        needs = {spec.name: sum(file.stat().st_size for file in spec.files) + overhead for spec in specs}
        persistent = persistent_processes(needs, gpu["free_bytes"] if plan.is_gpu else plan.memory_bytes)
    else:
        _measure_all_starts(specs, results, logs)
        peaks = {
            name: result.peak.proportional for name, result in results.items() if result.peak is not None
        }
        persistent = persistent_processes(peaks, plan.memory_bytes)

    limits = Result(LIMITS)
    buffer = TINY_BUFFER if plan.subject.is_tiny else GPU_BUFFER if plan.is_gpu else BUFFER
    arguments = {"threads": plan.threads, "buffer": buffer, "device": plan.device}
    prompt = PromptTokenizer.load(checkpoint / "tokenizer.json").encode(PROMPT, plan.subject.pieces)
    config = plan.subject.config
    operations = prefill_operations(config, config.vision_config.num_patches + len(prompt))
    run_rounds(
        [*specs, ProcessSpec(LIMITS, "benchmarks.hardware_limits", "HardwareLimits", arguments)],
        results | {LIMITS: limits},
        rounds=plan.rounds,
        batches=plan.batches,
        pasts=plan.pasts,
        persistent=persistent,
        warm_up=plan.batches if plan.is_gpu else (1,),
        sample_memory=not (plan.is_gpu or plan.starts),
        logs=logs,
        log=echo_stderr,
        after_round=lambda: store(results, limits, bounds(limits, operations), gpu),
    )


def _gpu_facts(plan: RealSizePlan, logs: Path) -> dict[str, Any]:
    """Return facts about the GPU, read by a short-lived process, so that its CUDA context is freed."""
    spec = ProcessSpec("device", "benchmarks.cuda.device", "Device", {"device": plan.device})
    with MeasuredProcess(spec, logs / "device.log") as process:
        return cast(dict[str, Any], process.call("facts"))


def _measure_all_starts(specs: Sequence[ProcessSpec], results: Mapping[str, Result], logs: Path) -> None:
    for spec in specs:
        result, log = results[spec.name], logs / f"{spec.name}.log"
        echo_stderr(f"starts: {spec.name}")
        try:
            measure_starts(spec, result, log)
            if spec.bundle is not None:
                measure_prepared_start(spec, result, log)
        except ProcessFailed as failed:
            result.failure = str(failed)
            echo_stderr(f"{spec.name}: {failed}")


@benchmark
@click.option("--device", type=DeviceType(), default="cpu", help="cpu, cuda or cuda:N.")
@SIDE
@click.option(
    "--precisions",
    callback=partial(parse_names, tuple(PRECISIONS)),
    help="Precisions of the bundles.  [default: those that run on the device]",
)
@click.option(
    "--openvino",
    default="",
    callback=partial(parse_names, OPENVINO_PRECISIONS),
    help=f"Precisions that OpenVINO runs, too: {', '.join(OPENVINO_PRECISIONS)}.  [default: none]",
)
@click.option(
    "--prepared",
    default="",
    callback=partial(parse_names, tuple(PRECISIONS)),
    help="Precisions whose prepared graphs (`paligemma-onnx prepare`) are measured, too.  [default: none]",
)
@click.option(
    "--reference",
    callback=partial(parse_names, REFERENCES),
    help="Dtypes in which the model in transformers is measured; bf16-compiled needs a GPU.  "
    "[default: bf16,fp32; on a GPU bf16]",
)
@click.option("--batches", default="1,4,8", callback=parse_numbers, help="Numbers of images per request.")
@click.option(
    "--pasts",
    default=",".join(map(str, PASTS)),
    callback=parse_numbers,
    help="Numbers of cached tokens with which decode steps are timed.",
)
@click.option("--tokens", type=click.IntRange(2, 1000), default=20, help="Tokens of each answer.")
@click.option(
    "--plot", "plot_file", type=click.Path(path_type=Path), help="Draw charts of the main figures (PNG file)."
)
@click.option(
    "--starts/--no-starts",
    default=None,
    help="Measure starts and prepared graphs before the rounds.  [default: --starts on a CPU]",
)
@click.option(
    "--validate/--no-validate",
    default=None,
    help="Compare each exported bundle with torch.  [default: --validate on a CPU]",
)
@click.option("--export-only", is_flag=True, help="Create checkpoint and bundles, and measure nothing.")
def main(
    work: Path,
    device: str,
    family: str,
    side: str,
    size: str,
    precisions: tuple[str, ...] | None,
    openvino: tuple[str, ...],
    prepared: tuple[str, ...],
    reference: tuple[str, ...] | None,
    batches: tuple[int, ...],
    pasts: tuple[int, ...],
    rounds: int,
    tokens: int,
    threads: int,
    memory_bytes: int,
    export_again: bool,
    export_only: bool,
    starts: bool | None,
    validate: bool | None,
    json_file: Path | None,
    plot_file: Path | None,
) -> None:
    """Export a model with random weights, and compare its speed with transformers and the hardware limits.

    The command needs Linux. A 3B model needs 6 GB of disk, each bundle up to 12 GB more. The next run reuses
    the checkpoint and the bundles in the work folder.
    """
    if plot_file is not None and not plot.is_installed():
        raise click.UsageError(plot.ADVICE)
    if device == "auto":
        raise click.UsageError("--device auto is not supported; choose cpu, cuda or cuda:N")
    precisions = precisions_for(device) if precisions is None else precisions
    if missing := set(openvino) - set(precisions):
        raise click.UsageError(f"--openvino names {', '.join(sorted(missing))}, which --precisions does not")
    if missing := set(prepared) - set(precisions):
        raise click.UsageError(f"--prepared names {', '.join(sorted(missing))}, which --precisions does not")
    if openvino and device != "cpu":
        raise click.UsageError(f"--openvino runs on the CPU, and --device is {device}")
    default_references = ("bf16", "fp32") if device == "cpu" else ("bf16",)
    plan = RealSizePlan(
        subject=benchmark_model(cast(Family, family), cast(Size, size), int(side)),
        device=device,
        precisions=precisions,
        openvino=openvino,
        prepared=prepared,
        references=default_references if reference is None else reference,
        batches=tuple(dict.fromkeys((1, *batches))),
        pasts=pasts,
        rounds=rounds,
        tokens=tokens,
        threads=threads,
        memory_bytes=memory_bytes,
        export_again=export_again,
        starts=device == "cpu" if starts is None else starts,
        validate=device == "cpu" if validate is None else validate,
    )
    work = work.resolve()
    if export_only:
        export(work, plan)
        return
    started, text = time.perf_counter(), ""

    def store(
        results: Mapping[str, Result], limits: Result, limit: Bounds | None, gpu: Mapping[str, Any]
    ) -> None:
        nonlocal text
        text = table(results, rows(plan.batches, plan.pasts, limit), limit, baseline_of(results))
        if json_file is not None:
            figures = {
                "device": gpu,
                "limits": limits.as_json(),
                "bounds": None if limit is None else asdict(limit) | {"prefill_s": limit.prefill_s()},
                "contenders": {name: result.as_json() for name, result in results.items()},
            }
            write_json(json_file, plan.as_json(), started, figures)
        if plot_file is not None:
            plot.draw(plot_file, results, plan.pasts, limit)

    measure(work, plan, store)
    click.echo(text)


def export(work: Path, plan: RealSizePlan) -> None:
    """Create the checkpoint and the bundles.

    Raises:
        click.ClickException: an export failed.
    """
    logs = work / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    checkpoint = make_checkpoint(work, plan.subject, device=plan.device)
    for system in bundles(checkpoint, plan, logs, echo_stderr):
        if system.result.failure is not None:
            raise click.ClickException(f"{system.result.name}: {system.result.failure}")


if __name__ == "__main__":
    main()
