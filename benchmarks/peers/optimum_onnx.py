"""Export a decoder with Optimum, and time it on onnxruntime. Runs in the environment of optimum-onnx.

python -m benchmarks.peers.optimum_onnx CHECKPOINT FOLDER
"""

from __future__ import annotations

import sys
from typing import Any

import onnxruntime
import torch
from optimum.exporters.onnx import main_export
from optimum.onnxruntime import ORTModelForCausalLM

from .decoder import Decoder, prompt_ids


class Optimum(Decoder):
    """The decoder in a folder that `optimum-cli export onnx` wrote."""

    def __init__(self, model: str, threads: int, steps: int, capacity: int) -> None:
        super().__init__(steps)
        del capacity  # not needed, because the cache grows with each step
        torch.set_num_threads(threads)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._model = ORTModelForCausalLM.from_pretrained(
            model, provider="CPUExecutionProvider", session_options=options, local_files_only=True
        )
        # For Gemma 2 the class creates an empty cache with the number of query heads and a head width of
        # model width / heads. Both are wrong, and the graph rejects the cache.
        self._model.num_key_value_heads = self._model.config.num_key_value_heads
        self._model.embed_size_per_head = self._model.config.head_dim
        self.clear_cache()

    def clear_cache(self) -> None:
        """Remove the cache."""
        self._cache: Any = None
        self._length = 0

    def prefill(self, tokens: int) -> None:
        """Read the given number of tokens."""
        self._read(torch.tensor([prompt_ids(tokens)]))

    def step(self) -> None:
        """Run one decode step with the most likely token."""
        self._read(self._logits[:, -1].argmax(-1, keepdim=True))

    @torch.inference_mode()
    def _read(self, ids: torch.Tensor) -> None:
        self._length += ids.shape[1]
        output = self._model(
            input_ids=ids,
            attention_mask=torch.ones(1, self._length, dtype=torch.int64),
            past_key_values=self._cache,
            use_cache=True,
        )
        self._cache, self._logits = output.past_key_values, output.logits


def export(checkpoint: str, folder: str) -> None:
    """Export as `optimum-cli export onnx` does, but without the final validation.

    The validation would load the checkpoint and the exported model at the same time.
    """
    main_export(checkpoint, folder, task="text-generation-with-past", dtype="fp32", do_validation=False)


if __name__ == "__main__":
    export(*sys.argv[1:])
