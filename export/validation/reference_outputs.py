"""What a reference answers, written down: one folder of arrays that the bundle is then held against.

The reference runs first and alone. Its arrays wait on disk, so that the two sides are never in memory
together and a large cache costs no memory either.

Legend: M pictures, S image side in pixels, I tokens an image, N image tokens of a row, B batch, T prompt
tokens of the longest row, K key-value heads, H head width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from paligemma_onnx.model.cache import Cache
from paligemma_onnx.model.mask_decoder import CODES, GRID, MaskDecoder


class ReferenceModel(Protocol):
    """The three verbs of model/paligemma.py, from whichever implementation."""

    def encode_image(self, pixel_values: Tensor) -> Tensor: ...  # noqa: D102  as in PaliGemma

    def prefill(  # noqa: D102
        self, input_ids: Tensor, image_features: Tensor, text_lengths: Tensor
    ) -> tuple[Tensor, Cache]: ...

    def decode_step(  # noqa: D102
        self, input_ids: Tensor, past_lengths: Tensor, past: Cache
    ) -> tuple[Tensor, Cache]: ...


@dataclass(frozen=True)
class ValidationInputs:
    """What both sides are asked."""

    pixel_values: NDArray[np.float32]  # [M, 3, S, S], shown together to every row
    prompts: tuple[tuple[int, ...], ...]  # B rows, BOS to newline, of different lengths
    steps: int  # decode steps
    pad: int
    suppressed: tuple[int, ...]  # ids that are never chosen

    @property
    def text_lengths(self) -> NDArray[np.int64]:
        """int64[B]."""
        return np.array([len(prompt) for prompt in self.prompts], dtype=np.int64)

    @property
    def input_ids(self) -> NDArray[np.int64]:
        """int64[B, T], padded on the right."""
        ids = np.full((len(self.prompts), self.text_lengths.max()), self.pad, dtype=np.int64)
        for row, prompt in enumerate(self.prompts):
            ids[row, : len(prompt)] = prompt
        return ids

    def choose(self, logits: NDArray[np.float32]) -> NDArray[np.int64]:
        """Greedy ids: float32[B, V] -> int64[B]."""
        allowed = logits.copy()
        allowed[:, list(self.suppressed)] = -np.inf
        chosen: NDArray[np.int64] = allowed.argmax(axis=1)
        return chosen


@dataclass(frozen=True)
class ReferenceOutputs:
    """Arrays by name: vision, prefill.logits, prefill.{i}.key, step.{k}.logits, step.{k}.{i}.key, ..."""

    folder: Path

    def __getitem__(self, name: str) -> NDArray[Any]:
        """One array, mapped from disk."""
        array: NDArray[Any] = np.load(self.folder / f"{name}.npy", mmap_mode="r")
        return array

    def keep(self, name: str, array: NDArray[Any]) -> None:
        """Write one array."""
        np.save(self.folder / f"{name}.npy", array)


@torch.inference_mode()
def run_reference(
    reference: ReferenceModel, questions: ValidationInputs, folder: Path, progress: Callable[[str], object]
) -> ReferenceOutputs:
    """Ask a reference and write down what it says.

    Each decode step is fed the reference's own greedy choice; the bundle will be fed the same ids. Of a
    step's cache only the slot that it wrote is kept.

    Args:
        reference: the model to ask.
        questions: what to ask.
        folder: where the arrays go.
        progress: told what comes next.
    """
    kept = ReferenceOutputs(folder)
    progress("reference: vision")
    # One picture at a time: attention over 4096 patches takes 2 GiB a picture.
    features = torch.cat(
        [reference.encode_image(torch.from_numpy(pixels[None])) for pixels in questions.pixel_values]
    )
    kept.keep("vision", features.numpy())

    progress("reference: prefill")
    text_lengths = torch.from_numpy(questions.text_lengths)
    shared = features.flatten(0, 1)[None].expand(len(questions.prompts), -1, -1)
    logits, cache = reference.prefill(torch.from_numpy(questions.input_ids), shared, text_lengths)
    kept.keep("prefill.logits", logits.numpy())
    _keep_cache(kept, "prefill", cache)

    lengths = text_lengths + shared.shape[1]
    for step in range(questions.steps):
        progress(f"reference: step {step + 1} of {questions.steps}")
        chosen = questions.choose(logits.numpy())
        kept.keep(f"step.{step}.ids", chosen)
        logits, cache = reference.decode_step(torch.from_numpy(chosen)[:, None], lengths, cache)
        kept.keep(f"step.{step}.logits", logits.numpy())
        _keep_cache(kept, f"step.{step}", cache, lengths)
        lengths = lengths + 1
    return kept


@torch.inference_mode()
def run_reference_masks(decoder: MaskDecoder, kept: ReferenceOutputs) -> None:
    """Ask a mask decoder for a few masks of every code there is; the arrays are mask.codes and mask.maps."""
    codes = torch.arange(CODES).reshape(-1, GRID * GRID)
    kept.keep("mask.codes", codes.numpy())
    kept.keep("mask.maps", decoder(codes).numpy())


def _keep_cache(kept: ReferenceOutputs, stage: str, cache: Cache, slots: Tensor | None = None) -> None:
    rows = torch.arange(len(cache[0].key))
    for layer, entry in enumerate(cache):
        for kind, tensor in entry._asdict().items():
            written = tensor if slots is None else tensor[rows, :, slots]  # [B, K, H]
            kept.keep(f"{stage}.{layer}.{kind}", written.numpy())
