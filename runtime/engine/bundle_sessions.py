"""A bundle's sessions, opened side by side, each where its graph runs."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..bundle.schema import GraphSpec, Manifest
from .cuda_provider import check_gpu
from .devices import Placement
from .memory import trim_heap
from .session import open_session
from .shared_weights import SharedWeights, load_shared_weights


def uses_cuda_graph(manifest: Manifest, placement: Placement) -> bool:
    """Whether steps are recorded and played back: on a GPU, where the cache stays what and where it is."""
    return placement.device == "cuda" and manifest.cache.update == "in_place"


def open_sessions(
    folder: Path,
    graphs: Sequence[GraphSpec],
    manifest: Manifest,
    placement: Placement,
    prepared: Path | None,
) -> tuple[dict[str, Any], SharedWeights | None]:
    """Sessions by their graph's digest, and weights that two of them share on a GPU.

    Raises what `open_session`, `load_shared_weights` and `check_gpu` raise.
    """
    if placement.device == "cuda":
        check_gpu(placement.index, manifest.cache.dtype)
    weights = load_shared_weights(folder, manifest, placement)

    def opened(graph: GraphSpec) -> Any:
        return open_session(
            folder,
            graph,
            manifest,
            _place(graph, manifest, placement),
            prepared=prepared,
            initializers={} if weights is None else weights.tensors.get(graph.digest, {}),
            recorded=uses_cuda_graph(manifest, placement) and graph == manifest.graphs.decode,
        )

    # Each takes its time with one thread: to bring weights into the order that its kernels read.
    with ThreadPoolExecutor(len(graphs)) as threads:
        futures = {graph.digest: threads.submit(opened, graph) for graph in graphs}
    sessions = {digest: session.result() for digest, session in futures.items()}
    trim_heap()
    return sessions, weights


def _place(graph: GraphSpec, manifest: Manifest, placement: Placement) -> Placement:
    """Where a graph runs: masks are made on the CPU, in a few milliseconds."""
    if graph == manifest.graphs.mask_decoder:
        return Placement("cpu", placement.threads)
    return placement
