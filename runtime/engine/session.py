"""onnxruntime sessions: one graph each, on the device asked for, with the weights resident once."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from ..bundle.graph_interface import check_interface
from ..bundle.manifest import GraphSpec, Manifest
from ..errors import BundleError, OptionError, ProviderError, ResourceError
from ..resource_errors import shortage
from . import cuda_provider as cuda
from .int8_overflow import guard

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": cuda.PROVIDER}
DEVICES = ("auto", *PROVIDERS)
EVERYWHERE = tuple(PROVIDERS)
NAMES = "auto, cpu, cuda or cuda:N"  # of devices, for people
_DEVICE = re.compile(r"(?P<kind>auto|cpu|cuda)|cuda:(?P<index>[0-9]{1,3})")
# By which `export` makes graphs for a device.
PRECISIONS = {"cpu": "fp32, int8 or int4", "cuda": "bf16"}
MOST_THREADS = 256  # each session starts as many; thousands would stall the machine
SMALLEST_OUTSIDE = 1024  # bytes of a tensor that is written beside a prepared graph, not into it


@dataclass(frozen=True)
class Placement:
    """Where sessions run."""

    device: Literal["cpu", "cuda"]
    threads: int  # for one operator on the CPU
    index: int = 0  # which GPU
    memory_limit: int | None = None  # bytes of the GPU's memory that sessions may take; None: all there are

    @property
    def name(self) -> str:
        """As `place` takes it."""
        return f"{self.device}:{self.index}" if self.index else self.device


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


def parse_device(text: str) -> tuple[str, int]:
    """A device's kind and which of that kind: `cuda:1` is ("cuda", 1).

    Raises:
        OptionError: there is no such name.
    """
    found = _DEVICE.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise OptionError(f"device is {text!r}, expected {NAMES}, as in cuda:1")
    return found["kind"] or "cuda", int(found["index"] or 0)


def place(
    device: str,
    threads: int | None,
    *,
    runs_on: Sequence[str] = EVERYWHERE,
    memory_limit: int | None = None,
) -> Placement:
    """Decide where to run.

    Args:
        device: `cpu`, `cuda` or, where there are several, `cuda:1`; `auto` takes CUDA where the engine has it
            and the graphs are made for it, else the CPU.
        threads: for one operator on the CPU; None takes every processor this process may use.
        runs_on: the devices that the graphs are made for.
        memory_limit: bytes of the GPU's memory that weights, sessions and caches together may take; what
            steps compute with, which is little, comes beside it. None: all there are.

    Raises:
        OptionError: an argument is out of range.
        BundleError: the graphs are not made for the device asked for.
        ProviderError: the engine has not the device asked for, or none that the graphs are made for.
    """
    if threads is not None and not (isinstance(threads, int) and 1 <= threads <= MOST_THREADS):
        raise OptionError(f"threads is {threads!r}, expected 1 to {MOST_THREADS}")
    if memory_limit is not None and not (isinstance(memory_limit, int) and memory_limit > 0):
        raise OptionError(f"memory_limit is {memory_limit!r}, expected a number of bytes over 0")
    (kind, index), present = parse_device(device), available_devices()
    if kind == "auto":
        usable = [one for one in ("cuda", "cpu") if one in present and one in runs_on]
        kind = usable[0] if usable else runs_on[0]
    if kind not in runs_on:
        raise BundleError(
            f"the bundle's precision runs on {' and '.join(runs_on)}, not on {kind}; "
            f"export again with --precision {PRECISIONS[kind]}"
        )
    if kind not in present:
        raise ProviderError(
            f"device {kind!r} is not available here, only: {', '.join(present)}; CUDA needs "
            f"`{cuda.INSTALL}` in an environment without onnxruntime"
        )
    threads = threads or available_threads()
    if kind == "cpu":
        if memory_limit is not None and device == "cpu":
            raise OptionError("memory_limit (--gpu-memory) is of a GPU, and device is 'cpu'")
        return Placement("cpu", threads)
    return Placement("cuda", threads, index, memory_limit)


def open_session(
    folder: Path,
    graph: GraphSpec,
    manifest: Manifest,
    placement: Placement,
    *,
    prepared: Path | None = None,
    initializers: Mapping[str, Any] = MappingProxyType({}),
    recorded: bool = False,
) -> Any:
    """Open one graph as an `onnxruntime.InferenceSession` and hold it against the manifest.

    Args:
        folder: the bundle.
        graph: one of the manifest's.
        manifest: the bundle's.
        placement: where to run.
        prepared: a folder with what `write_session` made of the graph, to open that instead.
        initializers: weights that are on the device already, OrtValues by name.
        recorded: whether a GPU records the graph's runs and plays them back (`gpu_graph_id`).

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
    for name, value in initializers.items():
        options.add_initializer(name, value)
    session = _create(ort, path, options, placement, recorded=recorded)
    check_interface(session, path, graph, manifest.bundle_id)
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


def open_plain(graph: bytes, placement: Placement, *, beside: Path | None = None) -> Any:
    """A graph in memory, run as it is; raises ProviderError and ResourceError.

    Args:
        graph: a serialised model.
        placement: where to run.
        beside: the folder of its weight files.
    """
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = placement.threads
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    # As the nodes stand in the file: otherwise what needs no input, such as a cast of a weight, comes first.
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    options.add_session_config_entry("session.disable_prepacking", "1")
    if beside is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(beside))
    return _opened(ort, graph, "", options, placement)


def _create(ort: Any, path: Path, options: Any, placement: Placement, *, recorded: bool = False) -> Any:
    try:
        str(path).encode()
    except UnicodeEncodeError:  # the engine takes paths as UTF-8
        raise BundleError(f"{str(path.parent)!a}: the folder's name is not UTF-8; rename it") from None
    return _opened(ort, str(path), path.name, options, placement, recorded=recorded)


def _opened(
    ort: Any, graph: str | bytes, name: str, options: Any, placement: Placement, *, recorded: bool = False
) -> Any:
    wanted = PROVIDERS[placement.device]
    provider: str | tuple[str, dict[str, str]] = wanted
    if placement.device == "cuda":
        cuda.start(ort, placement.index)
        chosen = cuda.provider_options(placement.index, recorded=recorded)
        if placement.memory_limit is not None and recorded:
            # What a recorded step computes with looks free behind it, and must stay: an arena of its own.
            chosen["gpu_mem_limit"] = str(placement.memory_limit)
        elif placement.memory_limit is not None:
            entry = cuda.limit_memory(ort, placement.index, placement.memory_limit)
            options.add_session_config_entry(*entry)
        provider = (wanted, chosen)
    try:
        with cuda.alone(placement.device):
            session = ort.InferenceSession(
                graph,
                options,
                providers=[provider],
                enable_fallback=0,  # it would print its troubles on stdout
            )
    except Exception as error:  # the engine has no common base for what it raises
        raise _translate(error, Path(graph if isinstance(graph, str) else ""), placement) from error
    actual = session.get_providers()[0]
    if actual != wanted:
        # onnxruntime only warns when a provider cannot be loaded.
        raise ProviderError(f"{name}: asked for {wanted} but got {actual}; see `paligemma-onnx doctor`")
    return session


def _session_options(ort: Any, placement: Placement, manifest: Manifest) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = placement.threads
    options.log_severity_level = 4  # only what ends the process: errors are raised, and told by us
    if placement.device == "cuda":
        # Without prepacking, weights come to a GPU in one piece, which an arena takes beyond its limit.
        if placement.memory_limit is None:
            options.add_session_config_entry("session.disable_prepacking", "1")
    elif manifest.recipe.is_float32:
        # Prepacking copies every weight into private memory, once for prefill and once for decode. Without
        # it both sessions map the same file and the weights are resident once, in the file cache. Products
        # of fewer bits need it on a CPU: their fast kernels read no other order.
        options.add_session_config_entry("session.disable_prepacking", "1")
    else:
        guard(options, ort)
    return options


def _translate(error: Exception, path: Path, placement: Placement) -> Exception:
    return cuda.trouble(error, str(path), placement.device) or BundleError(
        f"{path}: the engine does not take this graph ({type(error).__name__}); "
        f"run `paligemma-onnx verify {path.parent}`, then export again"
    )
