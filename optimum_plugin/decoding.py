"""The state of one call of `generate`, and the graph runs that advance it.

Shapes: docs/notation.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from paligemma_onnx.runtime.cancellation import Cancellation
from paligemma_onnx.runtime.generation.sampling import check_peak
from paligemma_onnx.runtime.graphs.kv_cache import Cache
from paligemma_onnx.runtime.graphs.model_runner import ModelRunner

from .inputs import PromptRows


@dataclass
class DecodeState:
    """State of one call of `generate`: the KV cache, between the steps of transformers' loop."""

    runner: ModelRunner
    max_length: int = 0  # ids that a row may have, padding included; 0: only the prompt is run
    cache: Cache | None = None  # None: the prompt was not run yet
    padding: NDArray[np.int64] | None = None  # [B], ids of the caller's rows that are padding

    def prefill(self, rows: PromptRows) -> torch.Tensor:
        """Run the prompts of a batch, and return the logits float32[B, V] of each row's last token.

        Raises:
            NumericsError: the graphs computed NaN or infinity.
            ResourceError: out of memory.
        """
        runner, cancel = self.runner, Cancellation()
        features = runner.encode_image(rows.pixel_values, cancel)
        gathered = runner.gather_image_features(features, rows.images, cancel)
        used = gathered.shape[1] + rows.input_ids.shape[1]
        slots = max(used, min(self.max_length, self._context))
        logits, self.cache = runner.prefill(rows.input_ids, gathered, rows.text_lengths, slots, cancel)
        self.padding = rows.padding
        return _checked(logits)

    def step(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Add a token to each row: int64[B, 1] -> logits float32[B, V].

        Rows that have ended continue with padding, and their logits are not read. Once the context of such
        a row is full, the padding overwrites the last slot.

        Raises:
            NumericsError: the graphs computed NaN or infinity.
            ResourceError: out of memory.
        """
        assert self.cache is not None
        cache = replace(self.cache, lengths=np.minimum(self.cache.lengths, self._context - 1))
        ids = token_ids.detach().cpu().numpy().astype(np.int64)
        logits, self.cache = self.runner.decode(ids, cache, Cancellation())
        return _checked(logits)

    def fills_context(self, input_ids: torch.Tensor, scores: object, **_: object) -> torch.Tensor:
        """Return for each row whether its context is full: int64[B, L] -> bool[B].

        This is a stopping criterion of transformers; it does not read `scores`.
        """
        del scores
        lengths = input_ids.shape[1] - (0 if self.padding is None else self.padding)
        full = torch.as_tensor(lengths >= self._context, device=input_ids.device)
        return full.expand(input_ids.shape[0])

    def release(self, *, reusable: bool) -> None:
        """Release the memory of the cache. `reusable`: no step raised an error."""
        if self.cache is not None:
            self.runner.release(self.cache, reusable=reusable)
            self.cache = None

    @property
    def _context(self) -> int:
        return self.runner.manifest.model.context_length


def _checked(logits: NDArray[np.float32]) -> torch.Tensor:
    """Return logits float32[B, V] as a tensor.

    Raises:
        NumericsError: a logit is NaN or +inf, or none of a row is finite.
    """
    for row in logits:
        check_peak(float(row.max()))  # NaN if any logit is NaN
    return torch.from_numpy(logits)
