"""onnxruntime sessions: one graph each, on the device asked for, with the weights resident once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..bundle.graph_interface import check_interface
from ..bundle.schema import GraphSpec, Manifest
from ..errors import BundleError, ProviderError
from . import cuda_provider as cuda
from .devices import PROVIDERS, Placement
from .int8_overflow import configure_int8
from .ort import import_onnxruntime

SMALLEST_OUTSIDE = 1024  # bytes of a tensor that is written beside a prepared graph, not into it


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
        with cuda.device_lock(placement.device):
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
    elif manifest.precision.is_float32:
        # Prepacking copies every weight into private memory, once for prefill and once for decode. Without
        # it both sessions map the same file and the weights are resident once, in the file cache. Products
        # of fewer bits need it on a CPU: their fast kernels read no other order.
        options.add_session_config_entry("session.disable_prepacking", "1")
    else:
        configure_int8(options, ort)
    return options


def _translate(error: Exception, path: Path, placement: Placement) -> Exception:
    return cuda.to_public_error(error, str(path), placement.device) or BundleError(
        f"{path}: the engine does not take this graph ({type(error).__name__}); "
        f"run `paligemma-onnx verify {path.parent}`, then export again"
    )
