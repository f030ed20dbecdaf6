"""torch with the same checkpoint on the same device: transformers eagerly, and with compiled steps.

Nothing waits for the GPU between steps, which is more than a loop that stops at EOS can have.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor
from transformers import CompileConfig
from transformers.cache_utils import Cache, StaticCache

from paligemma_onnx.runtime.diagnostics.benchmark import images_for
from paligemma_onnx.runtime.engine.devices import available_threads

from ..metrics import Figures
from ..reference import Reference
from .costs import LOAD, taken, typical
from .torch_memory import TorchMemory

DTYPE = "bf16"


class Eager(Reference):
    """Step by step, as it is written."""

    def __init__(self, folder: str, device: str, tokens: int) -> None:
        self._memory = TorchMemory(device)
        started = time.perf_counter()
        super().__init__(folder, DTYPE, available_threads(), tokens, device)
        self._figures: Figures = {LOAD: self._now() - started, taken(0): self._memory.taken()}

    def once(self, batches: list[int] | None = None) -> None:
        """A request of each number of pictures."""
        for size in batches or [1]:
            self.ask(images_for(None, size))
            self._figures[taken(size)] = self._memory.taken()

    def round(self, batches: list[int], requests: int) -> Figures:  # type: ignore[override]
        """Some requests of each number of pictures, with what was found before."""
        figures = dict(self._figures)
        for size in batches:
            figures |= typical([self.ask(images_for(None, size)) for _ in range(requests)])
        return figures


class Compiled(Eager):
    """With a cache of a fixed size and steps compiled as `generate` compiles them: to CUDA graphs."""

    def __init__(self, folder: str, device: str, tokens: int) -> None:
        super().__init__(folder, device, tokens)
        self._compiled = self._model.get_compiled_call(CompileConfig())  # torch's mode "reduce-overhead"
        self._caches: dict[int, StaticCache] = {}

    def once(self, batches: list[int] | None = None) -> None:
        """Compile, and say how long that took."""
        for size in batches or [1]:
            started = time.perf_counter()
            self.ask(images_for(None, size))  # compiles
            self._figures[f"compile_s_{size}"] = self._now() - started
            for _ in range(2):  # CUDA graphs are recorded at the second run of what is compiled
                self.ask(images_for(None, size))
            self._figures[taken(size)] = self._memory.taken()

    def _cache(self, rows: int) -> Cache:
        """The same for all requests of so many rows, or steps would be recorded again.

        transformers takes a cache that was used before for a prompt that goes on, and has the image's tokens
        see each other in one direction. That takes as long.
        """
        if rows not in self._caches:
            text = self._model.config.get_text_config()
            slots = self._facts.tokens + len(self._prompt) + self._tokens
            self._caches[rows] = StaticCache(config=text, max_cache_len=slots)
        self._caches[rows].reset()
        return self._caches[rows]

    def _step(self, ids: Tensor, cache: Cache) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        output: Any = self._compiled(
            input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1, return_dict=True
        )
        chosen: Tensor = output.logits[:, -1].argmax(dim=-1, keepdim=True)
        return chosen
