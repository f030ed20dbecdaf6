"""Timing of the PaliGemma in transformers with compiled decode steps.

Shapes: docs/notation.md.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import Tensor
from transformers import CompileConfig
from transformers.cache_utils import Cache, StaticCache

from paligemma_onnx.model.config import PaliGemmaConfig
from paligemma_onnx.runtime.diagnostics.benchmark import images_for

from ..metrics import COMPILE_S
from ..reference import Reference


class CompiledReference(Reference):
    """The reference with a cache of fixed size, and with decode steps compiled to CUDA graphs.

    The compilation is the one that `generate` of transformers uses.
    """

    def load(self, folder: Path, config: PaliGemmaConfig) -> None:
        """Load the checkpoint's weights to the device, and prepare the compilation."""
        super().load(folder, config)
        self._compiled = self.model.get_compiled_call(CompileConfig())  # torch's mode "reduce-overhead"
        self._caches: dict[int, StaticCache] = {}  # key: number of rows

    def warm_up(self, batches: list[int]) -> None:
        """Answer requests so that every batch size is compiled; store the seconds of the first request."""
        for images in batches:
            started = time.perf_counter()
            self.ask(images_for(None, images))
            self.metrics.setdefault(COMPILE_S, time.perf_counter() - started)
            for _ in range(2):  # CUDA graphs are captured in the second run of compiled code
                self.ask(images_for(None, images))
            self.note_device_memory(images)

    def new_cache(self, rows: int) -> Cache:
        """Return an empty cache, the same object for all requests with this number of rows.

        With another object, torch would capture the steps again. transformers takes a reused cache for the
        continuation of a prompt and applies a causal mask to the image tokens, which takes the same time.
        """
        if rows not in self._caches:
            text = self.model.config.get_text_config()
            slots = self._facts.tokens + len(self.prompt) + self.tokens
            self._caches[rows] = StaticCache(config=text, max_cache_len=slots)
        self._caches[rows].reset()
        return self._caches[rows]

    def step(self, ids: Tensor, state: Cache) -> tuple[Tensor, Cache]:
        """Read ids, int64[B, 1]; return the most likely next ids, int64[B, 1], and the cache."""
        torch.compiler.cudagraph_mark_step_begin()
        return self.next_ids(self._compiled, ids, state, return_dict=True), state
