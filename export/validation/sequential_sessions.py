"""Run a bundle with one open session at a time, so that only the largest graph must fit in memory."""

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


@dataclass(frozen=True)
class LazySession:
    """Session of one graph with the methods that a runner uses; each call opens the graph if needed.

    The sessions that share the dict `opened` are open one at a time.
    """

    graph: GraphSpec
    open_graph: OpenGraph
    opened: dict[str, Any]  # the open session; key: digest of its graph

    def io_binding(self) -> Any:
        """Return a new binding of the session."""
        return self._open().io_binding()

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        """Run the session on a binding."""
        self._open().run_with_iobinding(binding, options)

    def _open(self) -> Any:
        """Return the session of the graph. If the session of another graph is open, close it first.

        Callers must not store the session, because it is closed when another graph runs.
        """
        if self.graph.digest not in self.opened:
            self.opened.clear()
            trim_heap()
            self.opened[self.graph.digest] = self.open_graph(self.graph)
            trim_heap()
        return self.opened[self.graph.digest]


def graph_opener(folder: Path, manifest: Manifest, placement: Placement) -> OpenGraph:
    """Return a function that opens a graph of a bundle and returns its session.

    If the device cannot run the bundle's graphs, the function opens them in float32 emulation.
    """

    def open_graph(graph: GraphSpec) -> Any:
        # The mask decoder is float32 in a bundle of any precision, so it needs no emulation.
        if graph != manifest.graphs.mask_decoder and needs_emulation(manifest, placement):
            return open_float32_emulation(folder, graph, placement)
        return open_session(folder, graph, manifest, placement)

    return open_graph


def open_sequentially(manifest: Manifest, placement: Placement, open_graph: OpenGraph) -> OnnxModelRunner:
    """Return a runner that keeps one graph in memory and closes it before it runs another graph.

    Args:
        manifest: the bundle's manifest.
        placement: the device on which the graphs run.
        open_graph: opens a graph and returns its session; see `graph_opener`.
    """
    graphs, opened = manifest.graphs, dict[str, Any]()
    # Without a wide batch, decode steps of many rows run in the decode graph, too, so that it is checked.
    manifest = replace(manifest, precision=replace(manifest.precision, wide_batch=None))
    vision, prefill, decode = (
        LazySession(graph, open_graph, opened)
        for graph in (graphs.vision_encoder, graphs.prefill, graphs.decode)
    )
    masks = None if graphs.mask_decoder is None else LazySession(graphs.mask_decoder, open_graph, opened)
    return OnnxModelRunner(None, manifest, placement, vision, prefill, decode, masks)
