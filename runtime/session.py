"""onnxruntime sessions: one graph each, on the device asked for, with the weights resident once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .errors import BundleError, OptionError, ProviderError, ResourceError
from .manifest import BUNDLE_ID_KEY, GraphSpec, Manifest, TensorSpec
from .overflow import guard
from .shortage import shortage

Device = Literal["auto", "cpu", "cuda"]
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
DEVICES = ("auto", *PROVIDERS)
MOST_THREADS = 256  # each session starts as many; thousands would stall the machine
SMALLEST_OUTSIDE = 1024  # bytes of a tensor that is written beside a prepared graph, not into it
_DTYPES = {"tensor(float)": "float32", "tensor(int64)": "int64"}


@dataclass(frozen=True)
class Placement:
    """Where sessions run."""

    device: Literal["cpu", "cuda"]
    threads: int  # for one operator on the CPU


def import_onnxruntime() -> Any:
    """The engine, or a message that says how to install one.

    Raises:
        ProviderError: neither onnxruntime nor onnxruntime-gpu is installed, or it does not load.
        ResourceError: out of memory.
    """
    try:
        import onnxruntime  # noqa: PLC0415  the only heavy import, put off until a graph is opened
    except ModuleNotFoundError:
        raise ProviderError(
            "no execution engine: install one with `pip install 'paligemma-onnx[cpu]'` "
            "(or [gpu] for CUDA, never both)"
        ) from None
    except ImportError as error:
        if words := shortage(error):
            raise ResourceError(f"onnxruntime: {words}") from error
        raise ProviderError(f"onnxruntime is installed and does not load: {error}") from error
    return onnxruntime


def available_threads() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_devices() -> tuple[str, ...]:
    """Devices whose provider the installed engine was built with."""
    providers = import_onnxruntime().get_available_providers()
    return tuple(device for device, provider in PROVIDERS.items() if provider in providers)


def place(device: Device, threads: int | None) -> Placement:
    """Decide where to run.

    Args:
        device: `auto` takes CUDA when the engine has it, else the CPU.
        threads: for one operator on the CPU; None takes every processor this process may use.

    Raises:
        OptionError: threads is out of range.
        ProviderError: the engine has not the device asked for.
    """
    if threads is not None and not (isinstance(threads, int) and 1 <= threads <= MOST_THREADS):
        raise OptionError(f"threads is {threads!r}, expected 1 to {MOST_THREADS}")
    present = available_devices()
    if device == "auto":
        return Placement("cuda" if "cuda" in present else "cpu", threads or available_threads())
    if device not in present:
        raise ProviderError(
            f"device {device!r} is not available here, only: {', '.join(present)}; CUDA needs "
            "`pip install 'paligemma-onnx[gpu]'` in an environment without onnxruntime"
        )
    return Placement(device, threads or available_threads())


def open_session(
    folder: Path,
    graph: GraphSpec,
    manifest: Manifest,
    placement: Placement,
    *,
    prepared: Path | None = None,
) -> Any:
    """Open one graph as an `onnxruntime.InferenceSession` and hold it against the manifest.

    Args:
        folder: the bundle.
        graph: one of the manifest's.
        manifest: the bundle's.
        placement: where to run.
        prepared: a folder with what `write_session` made of the graph, to open that instead.

    Raises:
        BundleError: the graph does not load, belongs to another bundle, or has other inputs or outputs.
        ProviderError: the device does not start, or the engine fell back to another one.
        ResourceError: out of memory.
    """
    ort = import_onnxruntime()
    options, path = _session_options(ort, placement, manifest), folder / graph.file
    if prepared is not None:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # it is optimised
        path = prepared / prepared_name(graph)
    session = _create(ort, path, options, placement)
    _check_session(session, path, graph, manifest.bundle_id)
    return session


def write_session(
    folder: Path, graph: GraphSpec, manifest: Manifest, placement: Placement, prepared: Path
) -> None:
    """Write a graph as the engine has it once it is open: optimised, with matrices in its kernels' order.

    Raises:
        BundleError: the graph does not load.
        ResourceError: out of disk or memory.
    """
    ort = import_onnxruntime()
    options, name = _session_options(ort, placement, manifest), prepared_name(graph)
    options.optimized_model_filepath = str(prepared / name)
    entries = {
        "session.save_external_prepacked_constant_initializers": "1",
        "session.optimized_model_external_initializers_file_name": f"{name}.data",
        "session.optimized_model_external_initializers_min_size_in_bytes": str(SMALLEST_OUTSIDE),
    }
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    _create(ort, folder / graph.file, options, placement)


def prepared_name(graph: GraphSpec) -> str:
    """The file that `write_session` writes."""
    return f"{graph.digest}.onnx"


def _create(ort: Any, path: Path, options: Any, placement: Placement) -> Any:
    try:
        str(path).encode()
    except UnicodeEncodeError:  # the engine takes paths as UTF-8
        raise BundleError(f"{str(path.parent)!a}: the folder's name is not UTF-8; rename it") from None
    wanted = PROVIDERS[placement.device]
    try:
        session = ort.InferenceSession(
            str(path),
            options,
            providers=[wanted],
            enable_fallback=0,  # it would print its troubles on stdout
        )
    except Exception as error:  # the engine has no common base for what it raises
        raise _translate(error, path, placement) from error
    actual = session.get_providers()[0]
    if actual != wanted:
        # onnxruntime only warns when a provider cannot be loaded.
        raise ProviderError(f"{path.name}: asked for {wanted} but got {actual}; see `paligemma-onnx doctor`")
    return session


def _session_options(ort: Any, placement: Placement, manifest: Manifest) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = placement.threads
    options.log_severity_level = 4  # only what ends the process: errors are raised, and told by us
    if manifest.recipe.is_float32:
        # Prepacking copies every weight into private memory, once for prefill and once for decode. Without
        # it both sessions map the same file and the weights are resident once, in the file cache. Products
        # of fewer bits need it: their fast kernels read no other order.
        options.add_session_config_entry("session.disable_prepacking", "1")
    elif placement.device == "cpu":
        guard(options, ort)
    return options


def _translate(error: Exception, path: Path, placement: Placement) -> Exception:
    if words := shortage(error):
        return ResourceError(f"{path}: {words}")
    if placement.device == "cuda" and "cuda" in str(error).lower():
        return ProviderError(
            f"CUDA does not start here ({type(error).__name__}); see `paligemma-onnx doctor`"
        )
    return BundleError(
        f"{path}: the engine does not take this graph ({type(error).__name__}); "
        f"run `paligemma-onnx verify {path.parent}`, then export again"
    )


def _check_session(session: Any, path: Path, graph: GraphSpec, bundle_id: str) -> None:
    found = session.get_modelmeta().custom_metadata_map.get(BUNDLE_ID_KEY)
    if found != bundle_id:
        raise BundleError(
            f"{path}: belongs to bundle {found or 'none'}, the manifest is of bundle {bundle_id}; "
            "files of two exports are mixed, export again"
        )
    for kind, declared, actual in (
        ("input", graph.inputs, session.get_inputs()),
        ("output", graph.outputs, session.get_outputs()),
    ):
        wanted = {spec.name: spec for spec in declared}
        present = {
            node.name: TensorSpec(node.name, _DTYPES.get(node.type, node.type), tuple(node.shape))
            for node in actual
        }
        different = [
            name
            for name in (*wanted, *(name for name in present if name not in wanted))
            if not _agrees(wanted.get(name), present.get(name))
        ]
        if different:
            raise BundleError(
                f"{path}: {kind}s differ from the manifest: {', '.join(different[:10])}; export again"
            )


def _agrees(declared: TensorSpec | None, actual: TensorSpec | None) -> bool:
    """Same dtype, rank and fixed dimensions; the names of varying dimensions are free."""
    if declared is None or actual is None or declared.dtype != actual.dtype:
        return False
    if len(declared.shape) != len(actual.shape):
        return False
    return all(
        isinstance(wanted, str) or wanted == found
        for wanted, found in zip(declared.shape, actual.shape, strict=True)
    )
