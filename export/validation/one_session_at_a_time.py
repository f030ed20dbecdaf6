"""A bundle's sessions by turns: the check holds one graph in memory, not all of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from paligemma_onnx.runtime.bundle.schema import GraphSpec, Manifest
from paligemma_onnx.runtime.engine.devices import Placement
from paligemma_onnx.runtime.engine.memory import trim_heap
from paligemma_onnx.runtime.engine.session import open_session
from paligemma_onnx.runtime.graphs.onnx_runner import OnnxModelRunner

from .float32_emulation import needs_emulation, open_float32_emulation


class SequentialSessions:
    """Opens the graph that is asked for, and lets the one before it go."""

    def __init__(self, folder: Path, manifest: Manifest, placement: Placement) -> None:
        self._bundle = (folder, manifest, placement)
        self._session: Any = None
        self._digest = ""  # of the graph that is open

    def session(self, graph: GraphSpec) -> Any:
        """A graph's session, for the next run only; raises what `open_session` raises."""
        if graph.digest != self._digest:
            folder, manifest, placement = self._bundle
            self._session, self._digest = None, ""
            trim_heap()
            if graph != manifest.graphs.mask_decoder and needs_emulation(manifest, placement):
                self._session = open_float32_emulation(folder, graph, placement)
            else:
                self._session = open_session(folder, graph, manifest, placement)
            self._digest = graph.digest
        return self._session


class LazySession:
    """What a runner takes for a session: opened when it runs."""

    def __init__(self, turns: SequentialSessions, graph: GraphSpec) -> None:
        self._turns, self._graph = turns, graph

    def io_binding(self) -> Any:
        """The session's."""
        return self._turns.session(self._graph).io_binding()

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        """As the session."""
        self._turns.session(self._graph).run_with_iobinding(binding, options)


def open_sequentially(folder: Path, manifest: Manifest, placement: Placement) -> OnnxModelRunner:
    """A runner that needs the memory of its largest graph; changing from one to another takes its time."""
    turns, graphs = SequentialSessions(folder, manifest, placement), manifest.graphs
    # Each graph is held against the reference, so steps of many rows are decode's, too.
    manifest = replace(manifest, recipe=replace(manifest.recipe, wide_batch=None))
    vision, prefill, decode = (
        LazySession(turns, graph) for graph in (graphs.vision_encoder, graphs.prefill, graphs.decode)
    )
    masks = None if graphs.mask_decoder is None else LazySession(turns, graphs.mask_decoder)
    return OnnxModelRunner(folder, None, manifest, placement, vision, prefill, decode, masks)
