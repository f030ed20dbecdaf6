"""Timing of the PaliGemma in transformers, with fused attention, a KV cache and one forward pass per batch.

Shapes: docs/notation.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPooling

from paligemma_onnx.export.validation.transformers_reference import CACHE_ARGUMENT
from paligemma_onnx.model.config import PaliGemmaConfig

from .torch_timing import TimedTorchModel


class Reference(TimedTorchModel[Cache]):
    """`PaliGemmaForConditionalGeneration` with greedy decoding and separate calls of the three stages."""

    def load(self, folder: Path, config: PaliGemmaConfig) -> None:
        """Load the checkpoint's weights to the device."""
        transformers.utils.logging.disable_progress_bar()
        # Gemma 2 has a soft cap on attention scores, which torch's fused attention does not support.
        attention = "sdpa" if config.text_config.attn_logit_softcapping is None else "eager"
        self.model = transformers.PaliGemmaForConditionalGeneration.from_pretrained(
            folder, dtype=self.dtype, attn_implementation=attention, local_files_only=True
        ).eval()
        self.model.to(self.device)

    def encode(self, pixels: Tensor) -> Tensor:
        """Encode images: [M, 3, S, S] -> features [M, I, D]."""
        features: Tensor = self.model.get_image_features(pixels).pooler_output
        return features

    # The argument is unused, because the first forward pass sets the shape of this cache.
    def new_cache(self, rows: int) -> Cache:  # noqa: ARG002
        """Return an empty cache for a batch of the given number of rows."""
        return DynamicCache(config=self.model.config.get_text_config())

    def prefill(self, features: Tensor) -> tuple[Tensor, Cache]:
        """Read features [B, I, D] and the prompt; return the first ids, int64[B, 1], and the cache."""
        rows = len(features)
        cache = self.new_cache(rows)
        placeholders = torch.full(features.shape[:2], self.model.config.image_token_id, device=self.device)
        prompt = torch.tensor(self.prompt, device=self.device).expand(rows, -1)
        ids = torch.cat([placeholders, prompt], dim=1)
        first = self.next_ids(
            self.model,
            ids,
            cache,
            token_type_ids=torch.zeros_like(
                ids
            ),  # zeros mark the prefix, in which attention is bidirectional
            mm_encoder_outputs={"image": BaseModelOutputWithPooling(pooler_output=features)},
        )
        return first, cache

    def step(self, ids: Tensor, state: Cache) -> tuple[Tensor, Cache]:
        """Read ids, int64[B, 1]; return the most likely next ids, int64[B, 1], and the cache."""
        return self.next_ids(self.model, ids, state), state

    def next_ids(self, model: Any, ids: Tensor, cache: Cache, **inputs: Any) -> Tensor:
        """Call the model, and return the most likely next ids, int64[B, 1]."""
        output = model(input_ids=ids, use_cache=True, logits_to_keep=1, **{CACHE_ARGUMENT: cache}, **inputs)
        chosen: Tensor = output.logits[:, -1].argmax(dim=-1, keepdim=True)
        return chosen
