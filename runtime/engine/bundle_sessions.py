"""Open the sessions of a bundle in parallel. Each session runs on the device chosen for its graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ..bundle.schema import GraphSpec, Manifest
from .cuda_provider import check_gpu
from .devices import Placement
from .mapped_files import release_pages
from .memory import trim_heap
from .ort import InferenceSession
from .session import open_session
from .shared_weights import SharedWeights, load_shared_weights
from .thread_pool import thread_pool


def uses_cuda_graph(manifest: Manifest, placement: Placement) -> bool:
    """Return whether decode steps use CUDA graphs: true on a GPU if the cache is updated in place."""
    return placement.device == "cuda" and manifest.cache.update == "in_place"


def open_sessions(
    folder: Path,
    graphs: Sequence[GraphSpec],
    manifest: Manifest,
    placement: Placement,
    prepared: Path | None,
    on_opening: Callable[[], object] = lambda: None,
) -> tuple[dict[str, InferenceSession], SharedWeights | None]:
    """Open a session for each distinct graph.

    Args:
        folder: folder of the bundle.
        graphs: the graphs to open.
        manifest: manifest of the bundle.
        placement: device of the sessions.
        prepared: folder of prepared graphs; None: open the bundle's graphs.
        on_opening: called once the threads that open the sessions have started. They mostly run without
            Python's lock, so other Python code can run until this function returns.

    Returns:
        The sessions by the digest of their graph, and the weights that two of the sessions share, or None.

    Raises:
        BundleError, ProviderError, ResourceError: as in `open_session`, `load_shared_weights` and
            `check_gpu`.
    """
    if placement.device == "cuda":
        check_gpu(placement.index, manifest.cache.dtype)
    weights = load_shared_weights(folder, manifest, placement)

    def open_graph(graph: GraphSpec) -> InferenceSession:
        return open_session(
            folder,
            graph,
            manifest,
            _placement_of(graph, manifest, placement),
            prepared=prepared,
            initializers={} if weights is None else weights.tensors.get(graph.digest, {}),
            cuda_graph=uses_cuda_graph(manifest, placement) and graph == manifest.graphs.decode,
        )

    with thread_pool(len(graphs)) as threads:
        futures = {graph.digest: threads.submit(open_graph, graph) for graph in graphs}
        on_opening()
        sessions = {digest: session.result() for digest, session in futures.items()}
    trim_heap()
    if prepared is None and not manifest.precision.is_float32:
        release_pages(folder / name for name in manifest.files)  # the sessions keep packed copies
    return sessions, weights


def _placement_of(graph: GraphSpec, manifest: Manifest, placement: Placement) -> Placement:
    """Return the placement of a graph: the CPU for the mask decoder, which takes a few milliseconds there."""
    if graph == manifest.graphs.mask_decoder:
        return Placement("cpu", placement.threads)
    return placement
