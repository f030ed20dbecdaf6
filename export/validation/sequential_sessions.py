"""Run a bundle with one open session at a time: a check then needs the memory of its largest graph only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from paligemma_onnx.runtime.bundle.schema import GraphSpec, Manifest
from paligemma_onnx.runtime.engine.devices import Placement
from paligemma_onnx.runtime.engine.memory import trim_heap
from paligemma_onnx.runtime.engine.session import open_session
from paligemma_onnx.runtime.graphs.onnx_runner import OnnxModelRunner

from .float32_emulation import needs_emulation, open_float32_emulation

OpenGraph = Callable[[GraphSpec], Any]  # returns an onnxruntime session


class SequentialSessions:
    """Keeps at most one session open.

    Args:
        open_graph: opens the session of a graph.
    """

    def __init__(self, open_graph: OpenGraph) -> None:
        self._open_graph = open_graph
        self._session: Any = None
        self._digest = ""  # of the graph that is open

    def session(self, graph: GraphSpec) -> Any:
        """Return the session of a graph, after closing that of another graph.

        Callers must not store it: it stays open only until another graph is requested. Errors of `open_graph`
        pass through.
        """
        if graph.digest != self._digest:
            self._session, self._digest = None, ""
            trim_heap()
            self._session = self._open_graph(graph)
            self._digest = graph.digest
        return self._session


@dataclass(frozen=True)
class LazySession:
    """The part of an onnxruntime session that a runner uses; opens the graph when it runs."""

    sessions: SequentialSessions
    graph: GraphSpec

    def io_binding(self) -> Any:
        """Return a new binding of the session."""
        return self.sessions.session(self.graph).io_binding()

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        """Run the session on a binding."""
        self.sessions.session(self.graph).run_with_iobinding(binding, options)


def graph_opener(folder: Path, manifest: Manifest, placement: Placement) -> OpenGraph:
    """Return a function that opens a graph of a bundle, in float32 emulation if the device cannot run it."""

    def open_graph(graph: GraphSpec) -> Any:
        # The mask decoder is float32 in every precision.
        if graph != manifest.graphs.mask_decoder and needs_emulation(manifest, placement):
            return open_float32_emulation(folder, graph, placement)
        return open_session(folder, graph, manifest, placement)

    return open_graph


def open_sequentially(manifest: Manifest, placement: Placement, open_graph: OpenGraph) -> OnnxModelRunner:
    """Return a runner that keeps one graph in memory and opens another whenever the graph changes.

    Args:
        manifest: the bundle's.
        placement: where the graphs run.
        open_graph: opens a graph's session; see `graph_opener`.
    """
    sessions = SequentialSessions(open_graph)
    graphs = manifest.graphs
    # Without a wide batch, decode steps of many rows run in the decode graph, too: that graph is checked.
    manifest = replace(manifest, precision=replace(manifest.precision, wide_batch=None))
    vision, prefill, decode = (
        LazySession(sessions, graph) for graph in (graphs.vision_encoder, graphs.prefill, graphs.decode)
    )
    masks = None if graphs.mask_decoder is None else LazySession(sessions, graphs.mask_decoder)
    return OnnxModelRunner(None, manifest, placement, vision, prefill, decode, masks)
