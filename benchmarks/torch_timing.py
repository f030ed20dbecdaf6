"""Time the stages of greedy generation by a PaliGemma in torch.

Shapes: docs/notation.md.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from paligemma_onnx.export.bundle.manifest_facts import read_image_facts
from paligemma_onnx.model.checkpoint.config_json import read_config
from paligemma_onnx.model.config import PaliGemmaConfig
from paligemma_onnx.runtime.diagnostics.benchmark import Cost, images_for
from paligemma_onnx.runtime.image.open import open_image, preprocess
from paligemma_onnx.runtime.text.tokenizer import PromptTokenizer

from .metrics import LOAD_S, PROMPT, Metrics, device_memory
from .request_metrics import request_metrics

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}

State = TypeVar("State")  # state that a decode step receives from earlier steps, such as the KV cache


class TimedTorchModel(ABC, Generic[State]):
    """A loaded model, and the methods that `benchmarks.rounds` calls.

    The decode loop does not stop at EOS, so it does not wait for the GPU between steps. It is therefore
    faster than a loop that checks each token.
    """

    def __init__(self, folder: str, tokens: int, dtype: str, threads: int, device: str = "cpu") -> None:
        """Load a checkpoint.

        Args:
            folder: folder of the checkpoint.
            tokens: number of tokens of each answer.
            dtype: dtype of weights and activations, a key of `DTYPES`.
            threads: number of CPU threads.
            device: torch's name of the device.
        """
        torch.set_num_threads(threads)
        self.device, self.dtype, self.tokens = torch.device(device), DTYPES[dtype], tokens
        config = read_config(Path(folder))
        self._facts = read_image_facts(Path(folder), config)
        # All rows have the same prompt, so transformers needs no padding.
        self.prompt = PromptTokenizer.load(Path(folder) / "tokenizer.json").encode(PROMPT, tokens + 100)
        torch.zeros(1, device=self.device)  # starts CUDA, so that the measured memory excludes its context
        self._bytes_at_start = self._device_bytes()
        started = time.perf_counter()
        self.load(Path(folder), config)
        self.metrics: Metrics = {LOAD_S: self._now() - started}  # measured before the rounds
        self.note_device_memory(None)

    @abstractmethod
    def load(self, folder: Path, config: PaliGemmaConfig) -> None:
        """Load the checkpoint's weights to the device."""

    @abstractmethod
    def encode(self, pixels: Tensor) -> Tensor:
        """Encode images: [M, 3, S, S] -> features [M, I, D]."""

    @abstractmethod
    def prefill(self, features: Tensor) -> tuple[Tensor, State]:
        """Read features [B, I, D] and the prompt; return the first ids, int64[B, 1], and the state."""

    @abstractmethod
    def step(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        """Read ids, int64[B, 1]; return the most likely next ids, int64[B, 1], and the state."""

    def pixels(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Preprocess an image: uint8[height, width, 3] -> float32[3, S, S]."""
        facts = self._facts
        return preprocess(open_image(image).rgb, facts.size, facts.mean, facts.std, facts.rescale_factor)

    def warm_up(self, batches: list[int]) -> None:
        """Answer one request for each number of images in `batches`."""
        for images in batches:
            self.ask(images_for(None, images))
            self.note_device_memory(images)

    def round(self, batches: list[int], pasts: list[int]) -> Metrics:
        """Time one request for each number of images in `batches`; `pasts` has no effect.

        Returns:
            Figures by name; metrics.py lists the names.
        """
        del pasts
        metrics = dict(self.metrics)
        for images in batches:
            metrics |= request_metrics(self.ask(images_for(None, images)))
        return metrics

    @torch.inference_mode()
    def ask(self, images: Sequence[NDArray[np.uint8]]) -> Cost:
        """Answer one request of M images, one per row, and return the seconds of its stages."""
        started = time.perf_counter()
        pixels = torch.from_numpy(np.stack([self.pixels(image) for image in images]))
        preprocessed = time.perf_counter()
        features = self.encode(pixels.to(self.device, self.dtype))
        encoded = self._now()
        ids, state = self.prefill(features)
        prefilled = self._now()
        for _ in range(self.tokens - 1):
            ids, state = self.step(ids, state)
        ended = self._now()
        return Cost(
            images=len(images),
            tokens=self.tokens,
            vision_s=(encoded - preprocessed) / len(images),
            prefill_s=prefilled - encoded,
            time_to_first_token_s=prefilled - started,
            token_s=(ended - prefilled) / (self.tokens - 1),
            overhead_s=0.0,  # this benchmark does not measure it
            total_s=ended - started,
        )

    def note_device_memory(self, images: int | None) -> None:
        """Store the bytes of GPU memory allocated since CUDA started; do nothing on a CPU.

        Args:
            images: number of images of the last request; None after loading.
        """
        if self.device.type == "cuda":
            self.metrics[device_memory(images)] = self._device_bytes() - self._bytes_at_start

    def _device_bytes(self) -> int:
        """Return the bytes of GPU memory in use by all processes, as the driver reports them; 0 on a CPU."""
        if self.device.type == "cpu":
            return 0
        free, total = torch.cuda.mem_get_info(self.device)
        return total - free

    def _now(self) -> float:
        """Wait until the GPU is idle, then return `time.perf_counter()`."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
