"""llama.cpp through its C interface, as llama-cpp-python exposes it. Runs in that package's environment.

Legend: T tokens, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import llama_cpp as api
import numpy as np

from .decoder import Decoder, prompt_ids
from .gguf_file import FILE


class LlamaCpp(Decoder):
    """A GGUF file. What is not set is llama.cpp's own default, flash attention among it."""

    def __init__(self, model: str, threads: int, steps: int, slots: int) -> None:
        """Load.

        Raises:
            RuntimeError: llama.cpp does not take the file.
        """
        super().__init__(steps)
        api.llama_backend_init()
        self._model = api.llama_model_load_from_file(
            str(Path(model, FILE)).encode(), api.llama_model_default_params()
        )
        if not self._model:
            raise RuntimeError(f"llama.cpp does not load {model}")
        options = api.llama_context_default_params()
        options.n_ctx = slots
        options.n_batch = options.n_ubatch = slots  # the whole prompt in one pass
        options.n_threads = options.n_threads_batch = threads
        self._context = api.llama_init_from_model(self._model, options)
        if not self._context:
            raise RuntimeError(f"llama.cpp makes no context of {slots} tokens")
        self._vocabulary = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self._model))

    def forget(self) -> None:
        """Empty the cache."""
        api.llama_memory_clear(api.llama_get_memory(self._context), False)

    def prefill(self, tokens: int) -> None:
        """Read T tokens."""
        self._read(prompt_ids(tokens))

    def step(self) -> None:
        """Read the likeliest token."""
        self._read([int(np.argmax(self._logits))])

    def _read(self, ids: list[int]) -> None:
        """Ids to float32[V] behind the last of them."""
        tokens = (api.llama_token * len(ids))(*ids)
        if (code := api.llama_decode(self._context, api.llama_batch_get_one(tokens, len(ids)))) != 0:
            raise RuntimeError(f"llama_decode gave {code}")
        self._logits: Any = np.ctypeslib.as_array(
            api.llama_get_logits_ith(self._context, -1), shape=(self._vocabulary,)
        )
