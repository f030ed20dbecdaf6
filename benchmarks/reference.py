"""transformers' PaliGemma as a careful user runs it: fused attention, a cache, one pass a batch.

Legend: B rows, S image side in pixels, I tokens an image, D width, T prompt tokens, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPooling

from paligemma_onnx.export.bundle.manifest_facts import read_image_facts
from paligemma_onnx.model.checkpoint.config_json import read_config
from paligemma_onnx.runtime.diagnostics.benchmark import Cost, images_for
from paligemma_onnx.runtime.image.open import open_image, preprocess
from paligemma_onnx.runtime.text.tokenizer import PromptTokenizer

from .metrics import PROMPT, Figures, figures_of

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


class Reference:
    """`PaliGemmaForConditionalGeneration`, greedy, by its three stages."""

    def __init__(self, folder: str, dtype: str, threads: int, tokens: int, device: str = "cpu") -> None:
        torch.set_num_threads(threads)
        self._device = torch.device(device)
        transformers.utils.logging.disable_progress_bar()
        self._dtype, self._tokens = DTYPES[dtype], tokens
        config = read_config(Path(folder))
        # Gemma 2 caps its scores, which torch's fused attention cannot; transformers refuses it there.
        attention = "sdpa" if config.text_config.attn_logit_softcapping is None else "eager"
        self._model = transformers.PaliGemmaForConditionalGeneration.from_pretrained(
            folder, dtype=self._dtype, attn_implementation=attention, local_files_only=True
        ).eval()
        self._model.to(self._device)
        self._facts = read_image_facts(Path(folder), config)
        tokenizer = PromptTokenizer.load(Path(folder) / "tokenizer.json")
        # One prompt for all rows: none is padded, whatever transformers would make of that.
        self._prompt = tokenizer.encode(PROMPT, self._tokens + 100)

    def once(self) -> None:
        """Answer about one picture."""
        self.ask(images_for(None, 1))

    def round(self, batches: list[int], pasts: list[int]) -> Figures:
        """Requests of each number of pictures; steps behind other lengths of cache are not measured."""
        del pasts
        pictures, figures = images_for(None, max(batches)), Figures()
        for size in batches:
            figures |= figures_of(self.ask(pictures[:size]))
        return figures

    @torch.inference_mode()
    def ask(self, pictures: Sequence[NDArray[np.uint8]]) -> Cost:
        """Answer one request of B pictures."""
        started = time.perf_counter()
        pixels = torch.from_numpy(np.stack([self._pixels(picture) for picture in pictures]))
        looked = time.perf_counter()
        features = self._model.get_image_features(pixels.to(self._device, self._dtype)).pooler_output
        seen = self._now()
        cache = self._cache(len(pictures))
        token = self._prefill(features, cache)
        read = self._now()
        for _ in range(self._tokens - 1):
            token = self._step(token, cache)
        ended = self._now()
        return Cost(
            images=len(pictures),
            tokens=self._tokens,
            vision_s=(seen - looked) / len(pictures),
            prefill_s=read - seen,
            time_to_first_token_s=read - started,
            token_s=(ended - read) / (self._tokens - 1),
            overhead_s=0.0,  # not measured
            total_s=ended - started,
        )

    def _now(self) -> float:
        """By `time.perf_counter`, when all is done that was asked of a GPU."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def _cache(self, rows: int) -> Cache:  # noqa: ARG002  this one takes its shape from what is put into it
        """An empty one."""
        return DynamicCache(config=self._model.config.get_text_config())

    def _pixels(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        facts = self._facts
        return preprocess(open_image(picture).rgb, facts.size, facts.mean, facts.std, facts.rescale_factor)

    def _prefill(self, features: Tensor, cache: Cache) -> Tensor:
        """The first ids, int64[B, 1], from features [B, I, D]."""
        placeholders = torch.full(features.shape[:2], self._model.config.image_token_id, device=self._device)
        prompt = torch.tensor(self._prompt, device=self._device).expand(len(features), -1)
        ids = torch.cat([placeholders, prompt], dim=1)
        return self._call(
            ids,
            cache,
            # Zeros mark the prefix, which sees itself both ways.
            token_type_ids=torch.zeros_like(ids),
            mm_encoder_outputs={"image": BaseModelOutputWithPooling(pooler_output=features)},
        )

    def _step(self, ids: Tensor, cache: Cache) -> Tensor:
        return self._call(ids, cache)

    def _call(self, ids: Tensor, cache: Cache, **inputs: Any) -> Tensor:
        """The likeliest next ids, int64[B, 1]; EOS is one like others."""
        output = self._model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1, **inputs)
        chosen: Tensor = output.logits[:, -1].argmax(dim=-1, keepdim=True)
        return chosen
