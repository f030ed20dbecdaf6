"""Time llama.cpp through the C interface of llama-cpp-python. Runs in the environment of llama-cpp-python.

Shapes: docs/notation.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import llama_cpp as api
import numpy as np

from .decoder import Decoder, prompt_ids
from .gguf_file import FILE


class LlamaCpp(Decoder):
    """The decoder in a GGUF file.

    Options that are not set here have the defaults of llama.cpp, which include flash attention.
    """

    def __init__(self, model: str, threads: int, steps: int, capacity: int) -> None:
        """Load the GGUF file.

        Raises:
            RuntimeError: llama.cpp cannot load the file or create a context.
        """
        super().__init__(steps)
        api.llama_backend_init()
        self._model = api.llama_model_load_from_file(
            str(Path(model, FILE)).encode(), api.llama_model_default_params()
        )
        if not self._model:
            raise RuntimeError(f"llama.cpp cannot load {model}")
        options = api.llama_context_default_params()
        options.n_ctx = capacity
        options.n_batch = options.n_ubatch = capacity  # the whole prompt in one pass
        options.n_threads = options.n_threads_batch = threads
        self._context = api.llama_init_from_model(self._model, options)
        if not self._context:
            raise RuntimeError(f"llama.cpp cannot create a context of {capacity} tokens")
        self._vocabulary = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self._model))

    def clear_cache(self) -> None:
        """Empty the KV cache."""
        api.llama_memory_clear(api.llama_get_memory(self._context), False)

    def prefill(self, tokens: int) -> None:
        """Read the given number of tokens."""
        self._read(prompt_ids(tokens))

    def step(self) -> None:
        """Run one decode step with the most likely token."""
        self._read([int(np.argmax(self._logits))])

    def _read(self, ids: list[int]) -> None:
        """Read ids, and store the logits of the last position, float32[V]."""
        tokens = (api.llama_token * len(ids))(*ids)
        if (code := api.llama_decode(self._context, api.llama_batch_get_one(tokens, len(ids)))) != 0:
            raise RuntimeError(f"llama_decode returned {code}")
        self._logits: Any = np.ctypeslib.as_array(
            api.llama_get_logits_ith(self._context, -1), shape=(self._vocabulary,)
        )
