"""Measure a bundle's prefill and decode graphs, without the vision encoder, like the decoders of other tools.

Shapes: docs/notation.md.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from paligemma_onnx.runtime import Cancellation
from paligemma_onnx.runtime.bundle.manifest import read_manifest
from paligemma_onnx.runtime.engine.bundle_sessions import open_sessions
from paligemma_onnx.runtime.engine.devices import choose_placement
from paligemma_onnx.runtime.engine.prepared_graphs import find_prepared
from paligemma_onnx.runtime.graphs.onnx_runner import OnnxModelRunner

from .decoder import TEXT_TOKENS, Decoder, prompt_ids


class BundleDecoder(Decoder):
    """The decoder of a bundle. Its input is random image features, followed by TEXT_TOKENS tokens."""

    def __init__(self, model: str, threads: int, steps: int, capacity: int) -> None:
        super().__init__(steps)
        manifest = read_manifest(Path(model))
        placement, graphs = choose_placement("cpu", threads), manifest.graphs
        decoder = list({graph.digest: graph for graph in (graphs.prefill, graphs.decode)}.values())
        prepared = find_prepared(manifest, placement)
        sessions, _ = open_sessions(Path(model), decoder, manifest, placement, prepared)
        prefill, decode = sessions[graphs.prefill.digest], sessions[graphs.decode.digest]
        self._runner = OnnxModelRunner(None, manifest, placement, None, prefill, decode, None)
        self._capacity, self._cancel = capacity, Cancellation()
        shape = (1, capacity, manifest.model.hidden_size)
        self._features = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)

    @property
    def cached_tokens(self) -> int:
        """Number of tokens in the cache."""
        return int(self._cache.lengths[0])

    def clear_cache(self) -> None:
        """Do nothing, because a prefill creates a new cache."""

    def prefill(self, tokens: int) -> None:
        """Prefill with image features float32[1, N, D] and ids int64[1, T], where N + T = `tokens`."""
        features = self._features[:, : tokens - TEXT_TOKENS]
        ids = np.array([prompt_ids(TEXT_TOKENS)], dtype=np.int64)
        length = np.array([TEXT_TOKENS], dtype=np.int64)
        self._logits, self._cache = self._runner.prefill(ids, features, length, self._capacity, self._cancel)

    def step(self) -> None:
        """Run one decode step with the most likely token."""
        chosen = self._logits.argmax(-1, keepdims=True).astype(np.int64)
        self._logits, self._cache = self._runner.decode(chosen, self._cache, self._cancel)
