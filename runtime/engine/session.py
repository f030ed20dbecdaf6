"""Open an onnxruntime session for a graph on the requested device, or write its optimised graph to a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from ..bundle.graph_interface import check_interface
from ..bundle.schema import GraphSpec
from ..errors import BundleError, PaliGemmaError, ProviderError
from . import cuda_provider as cuda
from .devices import PROVIDERS, Placement, available_threads
from .fork import register_session
from .int8_overflow import configure_int8
from .load_errors import load_problem
from .ort import InferenceSession, Onnxruntime, OrtValue, SessionOptions, import_onnxruntime

MIN_EXTERNAL_BYTES = 1024  # larger tensors go to a file next to the prepared graph, smaller ones into it
LOG_FATAL_ONLY = 4  # onnxruntime severity; errors need no log, since they are raised
DISABLE_PREPACKING = ("session.disable_prepacking", "1")
# Pack the matrices of a session in several threads. All of them are then in memory twice until the last one
# is packed. The sessions of a bundle open at the same time. With two threads this saves a quarter of the
# start of a prepared 3B int4 bundle only, and needs 2 GB more. onnxruntime has this option since 1.32.
PARALLEL_PACKING = ("session.prepack.enable_parallel", "1")
MAX_SESSIONS = 4  # of a bundle: vision encoder, prefill, decode, mask decoder
# Threads spin while they wait for work. If there are more threads than processors, they keep each other from
# working: 256 threads on 2 processors take a minute per answer, and a second without spinning.
DISABLE_SPINNING = ("session.intra_op.allow_spinning", "0")


class SessionFacts(Protocol):
    """The part of a manifest that determines how a graph is opened."""

    @property
    def bundle_id(self) -> str:
        """Id in the metadata of the graph."""

    @property
    def is_float32(self) -> bool:
        """True if every matrix is float32."""


def open_session(
    folder: Path,
    graph: GraphSpec,
    manifest: SessionFacts,
    placement: Placement,
    *,
    prepared: Path | None = None,
    initializers: Mapping[str, OrtValue] = MappingProxyType({}),
    cuda_graph: bool = False,
) -> InferenceSession:
    """Open a graph of a bundle, compare it with the manifest, and return the session.

    Args:
        folder: folder of the bundle.
        graph: the graph's description in the manifest.
        manifest: manifest of the bundle.
        placement: device of the session.
        prepared: folder that `write_session` wrote; if it is set, its graph is opened, not the bundle's.
        initializers: weights that are already on the device, by name.
        cuda_graph: whether to capture and replay runs that set the option `gpu_graph_id`.

    Raises:
        BundleError: the graph does not load, belongs to another bundle, or has other inputs or outputs.
        ProviderError: the device does not start, or onnxruntime fell back to another device.
        ResourceError: out of memory.
    """
    ort = import_onnxruntime()
    options, path = _session_options(ort, placement, manifest), folder / graph.file
    if prepared is not None:
        # A prepared graph is already optimised.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        path = prepared / prepared_name(graph)
    for name, value in initializers.items():
        options.add_initializer(name, value)
    session = _open_file(ort, path, options, placement, cuda_graph=cuda_graph)
    check_interface(session, path, graph, manifest.bundle_id)
    return session


def write_session(
    folder: Path, graph: GraphSpec, manifest: SessionFacts, placement: Placement, prepared: Path
) -> None:
    """Write an optimised graph, with its matrices in the order of onnxruntime's kernels.

    Args:
        folder: folder of the bundle.
        graph: the graph's description in the manifest.
        manifest: manifest of the bundle.
        placement: device that the graph will run on.
        prepared: folder to write to. The graph's file is `prepared_name(graph)`, its weights are in
            `prepared_weights_name(graph)`.

    Raises:
        BundleError: the graph does not load.
        ResourceError: out of disk or memory.
    """
    ort = import_onnxruntime()
    options, name = _session_options(ort, placement, manifest), prepared_name(graph)
    options.optimized_model_filepath = str(prepared / name)
    entries = {
        "session.save_external_prepacked_constant_initializers": "1",
        "session.optimized_model_external_initializers_file_name": prepared_weights_name(graph),
        "session.optimized_model_external_initializers_min_size_in_bytes": str(MIN_EXTERNAL_BYTES),
    }
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    _open_file(ort, folder / graph.file, options, placement)


def prepared_name(graph: GraphSpec) -> str:
    """Return the name of the graph file that `write_session` writes."""
    return f"{graph.digest}.onnx"


def prepared_weights_name(graph: GraphSpec) -> str:
    """Return the name of the file of weights that `write_session` writes."""
    return f"{prepared_name(graph)}.data"


def open_serialized(
    graph: bytes, placement: Placement, *, weights_folder: Path | None = None
) -> InferenceSession:
    """Open a serialized model without optimising it, and return the session.

    Args:
        graph: bytes of the model.
        placement: device of the session.
        weights_folder: folder of the model's weight files; None: the model has none.

    Raises:
        BundleError: the model does not load.
        ProviderError: the device does not start, or onnxruntime fell back to another device.
        ResourceError: out of memory.
    """
    ort = import_onnxruntime()
    options: SessionOptions = ort.SessionOptions()
    options.log_severity_level = LOG_FATAL_ONLY
    _set_threads(options, placement)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    # Run nodes in the order of the file. By default, nodes without inputs run first, such as casts of
    # weights.
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    options.add_session_config_entry(*DISABLE_PREPACKING)
    if weights_folder is not None:
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(weights_folder)
        )
    return _open(ort, graph, Path(), options, placement)


def _open_file(
    ort: Onnxruntime, path: Path, options: SessionOptions, placement: Placement, *, cuda_graph: bool = False
) -> InferenceSession:
    try:
        str(path).encode()
    except UnicodeEncodeError:  # onnxruntime needs paths in UTF-8
        raise BundleError(f"{str(path.parent)!a}: the folder's name is not UTF-8; rename it") from None
    return _open(ort, str(path), path, options, placement, cuda_graph=cuda_graph)


def _open(
    ort: Onnxruntime,
    graph: str | bytes,
    path: Path,  # file that error messages name
    options: SessionOptions,
    placement: Placement,
    *,
    cuda_graph: bool = False,
) -> InferenceSession:
    expected = PROVIDERS[placement.device]
    provider_options: dict[str, str] = {}
    if placement.device == "cuda":
        cuda.start(ort, placement.index)
        provider_options = cuda.provider_options(placement.index, cuda_graph=cuda_graph)
        if placement.memory_limit is not None and cuda_graph:
            # After a captured run its temporary memory is free for the arena, but the memory must stay in
            # place for its replay. So the session needs an arena that no other session uses.
            provider_options["gpu_mem_limit"] = str(placement.memory_limit)
        elif placement.memory_limit is not None:
            option = cuda.shared_arena_option(ort, placement.index, placement.memory_limit)
            options.add_session_config_entry(*option)
    try:
        with cuda.device_lock(placement.device):
            session: InferenceSession = ort.InferenceSession(
                graph,
                options,
                providers=[(expected, provider_options)],
                enable_fallback=0,  # onnxruntime prints on stdout when it falls back
            )
    except Exception as error:  # onnxruntime's exceptions have no common base class
        raise _translate(error, path, placement) from error
    register_session(session)
    actual = session.get_providers()[0]
    if actual != expected:
        # If a provider cannot be loaded, onnxruntime only logs a warning.
        raise ProviderError(
            f"{path.name}: requested {expected} and got {actual}; see `paligemma-onnx doctor`"
        )
    return session


def _set_threads(options: SessionOptions, placement: Placement) -> None:
    options.intra_op_num_threads = placement.threads
    if placement.threads > available_threads():
        options.add_session_config_entry(*DISABLE_SPINNING)


def _session_options(ort: Onnxruntime, placement: Placement, manifest: SessionFacts) -> SessionOptions:
    options: SessionOptions = ort.SessionOptions()
    _set_threads(options, placement)
    options.log_severity_level = LOG_FATAL_ONLY
    if placement.device == "cuda":
        # Without prepacking, weights are copied to a GPU in one piece. The arena then exceeds its limit.
        if placement.memory_limit is None:
            options.add_session_config_entry(*DISABLE_PREPACKING)
    elif manifest.is_float32:
        # Prepacking copies every weight into private memory, for prefill and again for decode. Without
        # prepacking both sessions map the same file, and memory holds the weights once, in the file cache.
        # Quantised products on a CPU need prepacking: their fast kernels read only packed weights.
        options.add_session_config_entry(*DISABLE_PREPACKING)
    else:
        configure_int8(options, ort)
        if placement.threads > MAX_SESSIONS and not placement.low_memory:
            options.add_session_config_entry(*PARALLEL_PACKING)
    return options


def _translate(error: Exception, path: Path, placement: Placement) -> PaliGemmaError:
    if public := cuda.to_public_error(error, str(path), placement.device):
        return public
    if problem := load_problem(str(error)):
        return BundleError(f"{path}: {problem}")
    return BundleError(
        f"{path}: onnxruntime does not load this graph ({type(error).__name__}); "
        f"run `paligemma-onnx verify {path.parent}`, then export again"
    )
