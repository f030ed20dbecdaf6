"""The measured systems of `benchmarks.real_size`: bundles of each precision, and the model in torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from paligemma_onnx.export.precisions import PRECISIONS
from paligemma_onnx.model.skeleton import meta_model
from paligemma_onnx.runtime.bundle.manifest import read_manifest
from paligemma_onnx.runtime.graphs.openvino_runner import INSTALL

from .exports import ExportFailed, make_bundle
from .lower_bounds import weight_bytes
from .measured_process import ProcessFailed, ProcessSpec
from .results import Result
from .rounds import prepare_graphs
from .sizes import BenchmarkModel

DTYPE_BYTES = {"bf16": 2, "fp32": 4}  # bytes per weight, by the name of the dtype
COMPILED = "bf16-compiled"  # the model in transformers with compiled decode steps
REFERENCES = (*DTYPE_BYTES, COMPILED)
NO_VALIDATION = ("--no-validate",)  # option of `paligemma-onnx export`
OPENVINO_PRECISIONS = tuple(
    name for name, each in PRECISIONS.items() if each.cache == "grow" and "cpu" in each.devices
)


@dataclass(frozen=True)
class RealSizePlan:
    """Options of a run of `benchmarks.real_size`."""

    subject: BenchmarkModel
    device: str  # cpu, cuda or cuda:N
    precisions: tuple[str, ...]  # precisions of the measured bundles
    openvino: tuple[str, ...]  # members of `precisions`: OpenVINO runs their bundles, too
    prepared: tuple[str, ...]  # members of `precisions`: their prepared graphs are measured, too
    references: tuple[str, ...]  # members of REFERENCES
    batches: tuple[int, ...]  # numbers of images per request; the first is 1
    pasts: tuple[int, ...]  # numbers of cached tokens with which decode steps are timed
    rounds: int
    tokens: int  # number of tokens of each answer
    threads: int
    memory_bytes: int  # limit for all processes that stay loaded between rounds
    export_again: bool
    starts: bool  # whether starts, peak memory and prepared graphs are measured before the rounds
    validate: bool  # whether each export compares the bundle with torch

    @property
    def is_gpu(self) -> bool:
        """True if the device is a GPU."""
        return self.device != "cpu"

    def as_json(self) -> dict[str, Any]:
        """Return the options as a dict for the JSON document."""
        return asdict(self) | {"subject": self.subject.name}


@dataclass(frozen=True)
class System:
    """A measured system and its result."""

    result: Result
    process: ProcessSpec | None  # None: the system cannot run; `result.failure` has the reason


def bundles(
    checkpoint: Path, plan: RealSizePlan, logs: Path, log: Callable[[str], object]
) -> Iterator[System]:
    """Export a bundle of each precision, unless an earlier run exported it, and yield its systems.

    The first system of a bundle runs in onnxruntime. If `plan.openvino` has the precision, the second system
    runs in OpenVINO.

    Args:
        checkpoint: folder of the checkpoint.
        plan: options of the run.
        logs: folder for the output of exports.
        log: prints a line of progress.
    """
    for precision in plan.precisions:
        result = Result(precision)
        log(f"export {precision}")
        try:
            bundle, result.export = make_bundle(
                checkpoint,
                precision,
                log=logs / f"export-{precision}.log",
                again=plan.export_again,
                options=() if plan.validate else NO_VALIDATION,
            )
        except ExportFailed as failed:
            result.failure = f"export: {failed}"
            log(f"{precision}: {result.failure}")
            yield System(result, None)
            continue
        manifest = read_manifest(bundle)
        result.decoder_bytes = weight_bytes(bundle / manifest.graphs.decode.file)
        arguments = {"folder": str(bundle), "tokens": plan.tokens}
        files = tuple(bundle / name for name in manifest.files)
        if plan.is_gpu:
            arguments |= {"device": plan.device}
            process = ProcessSpec(
                precision, "benchmarks.cuda.bundle_timing", "CudaBundle", arguments, files, profiled=True
            )
        else:
            arguments |= {"threads": plan.threads}
            prepares = None if manifest.precision.is_float32 else bundle
            process = ProcessSpec(precision, "benchmarks.bundle", "Bundle", arguments, files, prepares)
        yield System(result, process)
        if precision in plan.prepared:
            log(f"prepare {precision}")
            yield prepared_system(process, result, bundle, logs)
        if precision in plan.openvino:
            yield _openvino_system(process, result)


def prepared_system(process: ProcessSpec, result: Result, bundle: Path, logs: Path) -> System:
    """Prepare the graphs of another system's bundle, and return the system that opens them."""
    name = f"{process.name} prepared"
    prepared = Result(name, decoder_bytes=result.decoder_bytes, export=result.export)
    cache = bundle.parent / "kept-prepared"
    try:
        prepare_graphs(bundle, cache, logs / "prepare.log")
    except ProcessFailed as failed:
        prepared.failure = str(failed)
        return System(prepared, None)
    return System(prepared, replace(process, name=name, bundle=None, prepared=cache))


def _openvino_system(bundle: ProcessSpec, result: Result) -> System:
    """Return the system that runs the bundle of another system in OpenVINO."""
    name = f"{bundle.name} openvino"
    spec = replace(bundle, name=name, arguments=bundle.arguments | {"engine": "openvino"}, bundle=None)
    missing = None if find_spec("openvino") else f"openvino is not installed: {INSTALL}"
    own = Result(name, decoder_bytes=result.decoder_bytes, failure=missing)
    return System(own, None if missing else spec)


def references(checkpoint: Path, plan: RealSizePlan) -> Iterator[System]:
    """Yield the model in torch as a system, for each reference of the plan.

    The system uses the implementation in transformers or, if transformers is not installed, in `model/`.
    """
    decoder = meta_model(plan.subject.config).language_model
    weights = sum(weight.numel() for weight in decoder.parameters())
    files = tuple(sorted(checkpoint.glob("*.safetensors")))
    installed = find_spec("transformers") is not None
    for reference in plan.references:
        dtype = reference.removesuffix("-compiled")
        name = f"{'transformers' if installed else 'torch'} {reference.replace('-', ' ')}"
        result = Result(name, decoder_bytes=weights * DTYPE_BYTES[dtype])
        arguments = {
            "folder": str(checkpoint),
            "tokens": plan.tokens,
            "dtype": dtype,
            "threads": plan.threads,
            "device": plan.device,
        }
        module, class_name = "benchmarks.reference", "Reference"
        if reference == COMPILED and not installed:
            result.failure = "transformers is not installed; it is needed for compiled decode steps"
            yield System(result, None)
            continue
        if reference == COMPILED:
            module, class_name = "benchmarks.cuda.compiled_reference", "CompiledReference"
        elif not installed:
            module, class_name = "benchmarks.cuda.torch_model", "TorchModel"
            result.tool = f"the torch model of this project in {dtype}, because transformers is not installed"
        yield System(result, ProcessSpec(name, module, class_name, arguments, files))
