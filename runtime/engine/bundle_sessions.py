"""Open the sessions of a bundle in parallel. Each session runs on the device chosen for its graph."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..bundle.schema import GraphSpec, Manifest
from .cuda_provider import check_gpu
from .devices import Placement
from .memory import trim_heap
from .ort import InferenceSession
from .session import open_session
from .shared_weights import SharedWeights, load_shared_weights


def uses_cuda_graph(manifest: Manifest, placement: Placement) -> bool:
    """Return whether decode steps use CUDA graphs: true on a GPU if the cache is updated in place."""
    return placement.device == "cuda" and manifest.cache.update == "in_place"


def open_sessions(
    folder: Path,
    graphs: Sequence[GraphSpec],
    manifest: Manifest,
    placement: Placement,
    prepared: Path | None,
) -> tuple[dict[str, InferenceSession], SharedWeights | None]:
    """Open a session for each distinct graph.

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

    # Reordering the weights for the kernels takes most of the time and uses a single thread per session.
    threads = ThreadPoolExecutor(len(graphs))
    try:
        futures = {graph.digest: threads.submit(open_graph, graph) for graph in graphs}
        sessions = {digest: session.result() for digest, session in futures.items()}
    except BaseException as error:  # after Ctrl-C, do not wait for the other sessions, which may take seconds
        threads.shutdown(wait=isinstance(error, Exception), cancel_futures=True)
        raise
    threads.shutdown()
    trim_heap()
    return sessions, weights


def _placement_of(graph: GraphSpec, manifest: Manifest, placement: Placement) -> Placement:
    """Return the placement of a graph: the CPU for the mask decoder, which takes a few milliseconds there."""
    if graph == manifest.graphs.mask_decoder:
        return Placement("cpu", placement.threads)
    return placement
