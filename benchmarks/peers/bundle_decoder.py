"""A bundle's prefill and decode graphs, without its vision encoder, as the other decoders are measured.

Legend: B rows, N image tokens, T prompt tokens, D width.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from paligemma_onnx.runtime import Cancellation
from paligemma_onnx.runtime.bundle.manifest import read_manifest
from paligemma_onnx.runtime.engine.bundle_sessions import open_sessions
from paligemma_onnx.runtime.engine.devices import choose_placement
from paligemma_onnx.runtime.graphs.onnx_runner import OnnxModelRunner

from .decoder import TEXT_TOKENS, Decoder, prompt_ids


class Ours(Decoder):
    """A bundle whose prompt is image features but for its last tokens."""

    def __init__(self, model: str, threads: int, steps: int, slots: int) -> None:
        super().__init__(steps)
        manifest = read_manifest(Path(model))
        placement, graphs = choose_placement("cpu", threads), manifest.graphs
        decoder = list({graph.digest: graph for graph in (graphs.prefill, graphs.decode)}.values())
        sessions, _ = open_sessions(Path(model), decoder, manifest, placement, None)
        prefill, decode = sessions[graphs.prefill.digest], sessions[graphs.decode.digest]
        self._runner = OnnxModelRunner(None, manifest, placement, None, prefill, decode, None)
        self._slots, self._cancel = slots, Cancellation()
        shape = (1, slots, manifest.model.hidden_size)
        self._features = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)

    def forget(self) -> None:
        """Nothing is kept: a prefill makes a new cache."""

    def prefill(self, tokens: int) -> None:
        """Read float32[1, N, D] and int64[1, T], together as many as are asked."""
        features = self._features[:, : tokens - TEXT_TOKENS]
        ids = np.array([prompt_ids(TEXT_TOKENS)], dtype=np.int64)
        length = np.array([TEXT_TOKENS], dtype=np.int64)
        self._logits, self._cache = self._runner.prefill(ids, features, length, self._slots, self._cancel)

    def step(self) -> None:
        """Read the likeliest token."""
        chosen = self._logits.argmax(-1, keepdims=True).astype(np.int64)
        self._logits, self._cache = self._runner.decode(chosen, self._cache, self._cancel)
