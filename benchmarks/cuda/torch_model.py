"""Our own model in torch, where transformers is not installed: bfloat16, step by step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from paligemma_onnx.export.bundle.manifest_facts import read_image_facts
from paligemma_onnx.model.checkpoint.load import load_model, open_checkpoint
from paligemma_onnx.runtime.diagnostics.benchmark import Cost, images_for
from paligemma_onnx.runtime.image.open import open_image, preprocess
from paligemma_onnx.runtime.text.tokenizer import PromptTokenizer

from ..metrics import PROMPT, Figures
from .costs import LOAD, taken, typical
from .torch_memory import TorchMemory


class OwnTorch:
    """`model/`, whose cache grows by a slot a step."""

    def __init__(self, folder: str, device: str, tokens: int) -> None:
        self._memory, self._device, self._tokens = TorchMemory(device), torch.device(device), tokens
        started = time.perf_counter()
        config, checkpoint = open_checkpoint(Path(folder))
        self._model = load_model(config, checkpoint).to(self._device, torch.bfloat16)
        self._facts = read_image_facts(Path(folder), config)
        self._prompt = PromptTokenizer.load(Path(folder) / "tokenizer.json").encode(PROMPT, tokens + 100)
        self._figures: Figures = {LOAD: self._now() - started, taken(0): self._memory.taken()}

    def once(self, batches: list[int]) -> None:
        """A request of each number of pictures."""
        for size in batches:
            self.ask(images_for(None, size))
            self._figures[taken(size)] = self._memory.taken()

    def round(self, batches: list[int], requests: int) -> Figures:
        """Some requests of each number of pictures, with what was found before."""
        figures = dict(self._figures)
        for size in batches:
            figures |= typical([self.ask(images_for(None, size)) for _ in range(requests)])
        return figures

    @torch.inference_mode()
    def ask(self, pictures: Sequence[NDArray[np.uint8]]) -> Cost:
        """Answer one request of B pictures."""
        facts, rows, started = self._facts, len(pictures), time.perf_counter()
        pixels = np.stack(
            [
                preprocess(open_image(picture).rgb, facts.size, facts.mean, facts.std, facts.rescale_factor)
                for picture in pictures
            ]
        )
        looked = time.perf_counter()
        features = self._model.encode_image(torch.from_numpy(pixels).to(self._device, torch.bfloat16))
        seen = self._now()
        prompt = torch.tensor(self._prompt, device=self._device).expand(rows, -1)
        lengths = torch.full((rows,), prompt.shape[1], device=self._device)
        logits, cache = self._model.prefill(prompt, features, lengths)
        token = logits.argmax(dim=-1, keepdim=True)
        read = self._now()
        used = features.shape[1] + lengths
        for _ in range(self._tokens - 1):
            logits, cache = self._model.decode_step(token, used, cache)
            token, used = logits.argmax(dim=-1, keepdim=True), used + 1
        ended = self._now()
        return Cost(
            images=rows,
            tokens=self._tokens,
            vision_s=(seen - looked) / rows,
            prefill_s=read - seen,
            time_to_first_token_s=read - started,
            token_s=(ended - read) / (self._tokens - 1),
            overhead_s=0.0,
            total_s=ended - started,
        )

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()
