"""Reference outputs stored on disk, one array per file, for comparison with the bundle.

The reference runs before the bundle is opened, and stores its outputs on disk. Reference and bundle are
therefore never in memory at the same time, and a large KV cache does not stay in memory either.

Shapes: docs/notation.md.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from paligemma_onnx.model.cache import Cache
from paligemma_onnx.model.mask_decoder import CODES, GRID, MaskDecoder
from paligemma_onnx.runtime.engine.memory import trim_heap


class ReferenceModel(Protocol):
    """Interface of an implementation that a bundle is compared with.

    model/paligemma.py describes the methods.
    """

    def encode_image(self, pixel_values: Tensor) -> Tensor:
        """Encode images: float32[M, 3, S, S] -> float32[M, I, D]."""

    def prefill(
        self, input_ids: Tensor, image_features: Tensor, text_lengths: Tensor
    ) -> tuple[Tensor, Cache]:
        """Read prompts: int64[B, T], float32[B, N, D], int64[B] -> float32[B, V], cache of L slots."""

    def decode_step(self, input_ids: Tensor, past_lengths: Tensor, past: Cache) -> tuple[Tensor, Cache]:
        """Add tokens: int64[B, T], int64[B], cache of P slots -> float32[B * T, V], cache of P + T slots."""


@dataclass(frozen=True)
class ValidationInputs:
    """Inputs of a validation; reference and bundle are run on the same inputs."""

    pixel_values: NDArray[np.float32]  # [M, 3, S, S]; every row of the batch gets all M images
    prompts: tuple[tuple[int, ...], ...]  # token ids of B rows, from BOS to newline; lengths differ
    steps: int  # number of decode steps
    pad: int  # id of the padding token
    suppressed: tuple[int, ...]  # ids that greedy decoding never chooses

    @property
    def text_lengths(self) -> NDArray[np.int64]:
        """Number of ids of each prompt, int64[B]."""
        return np.array([len(prompt) for prompt in self.prompts], dtype=np.int64)

    @property
    def input_ids(self) -> NDArray[np.int64]:
        """Ids of all prompts, padded on the right, int64[B, T]."""
        prompts = [torch.tensor(prompt) for prompt in self.prompts]
        return pad_sequence(prompts, batch_first=True, padding_value=self.pad).numpy()

    def choose(self, logits: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return the most likely id that is not suppressed: float32[B, V] -> int64[B]."""
        allowed = logits.copy()
        allowed[:, list(self.suppressed)] = -np.inf
        chosen: NDArray[np.int64] = allowed.argmax(axis=1)
        return chosen


@dataclass(frozen=True)
class ReferenceOutputs:
    """Arrays of one reference run, stored in a folder.

    The arrays are named `vision`, `mask.codes`, `mask.maps`, `prefill.logits`, `step.{step}.ids` and
    `step.{step}.logits`. The keys and values of each layer are named `prefill.{layer}.key`,
    `step.{step}.{layer}.value`, ...
    """

    folder: Path

    def __getitem__(self, name: str) -> NDArray[Any]:
        """Return the array with this name, memory-mapped from disk."""
        array: NDArray[Any] = np.load(self.folder / f"{name}.npy", mmap_mode="r")
        return array

    def save(self, name: str, array: NDArray[Any]) -> None:
        """Write an array to disk under this name."""
        np.save(self.folder / f"{name}.npy", array)


def load_and_run_reference(
    load: Callable[[], tuple[str, ReferenceModel]],
    inputs: ValidationInputs,
    pixel_values: NDArray[np.float32] | None,
    folder: Path,
    progress: Callable[[str], object],
) -> tuple[str, ReferenceOutputs]:
    """Load a reference, run it, and free it, so that reference and graphs are never in memory together.

    Args:
        load: returns the name of the reference and the reference model.
        inputs: the inputs of the model.
        pixel_values: what the reference's own preprocessing made of the images; None: as in `inputs`.
        folder: the folder in which the arrays are written.
        progress: called with a line of text before each stage.

    Returns:
        The name of the reference, and its outputs.
    """
    progress("reference: loading")
    name, model = load()
    pixels = inputs.pixel_values if pixel_values is None else pixel_values
    outputs = run_reference(model, replace(inputs, pixel_values=pixels), folder, progress)
    del model
    gc.collect()
    trim_heap()
    return name, outputs


@torch.inference_mode()
def run_reference(
    reference: ReferenceModel, inputs: ValidationInputs, folder: Path, progress: Callable[[str], object]
) -> ReferenceOutputs:
    """Run a reference and store its outputs.

    The input of each decode step is the token that the reference chose greedily in the step before. The
    bundle later gets the same ids. For each decode step, only the cache slot that the step wrote is stored.

    Args:
        reference: the model to run.
        inputs: the inputs of the model.
        folder: the folder in which the arrays are written.
        progress: called with a line of text before each stage.
    """
    outputs = ReferenceOutputs(folder)
    progress("reference: vision")
    # One image per call: attention over 4096 patches takes 2 GiB per image.
    features = torch.cat(
        [reference.encode_image(torch.from_numpy(pixels[None])) for pixels in inputs.pixel_values]
    )
    outputs.save("vision", features.numpy())

    progress("reference: prefill")
    text_lengths = torch.from_numpy(inputs.text_lengths)
    shared = features.flatten(0, 1)[None].expand(len(inputs.prompts), -1, -1)
    logits, cache = reference.prefill(torch.from_numpy(inputs.input_ids), shared, text_lengths)
    outputs.save("prefill.logits", logits.numpy())
    _save_cache(outputs, "prefill", cache)

    lengths = text_lengths + shared.shape[1]
    for step in range(inputs.steps):
        progress(f"reference: step {step + 1} of {inputs.steps}")
        chosen = inputs.choose(logits.numpy())
        outputs.save(f"step.{step}.ids", chosen)
        logits, cache = reference.decode_step(torch.from_numpy(chosen)[:, None], lengths, cache)
        outputs.save(f"step.{step}.logits", logits.numpy())
        _save_cache(outputs, f"step.{step}", cache, lengths)
        lengths = lengths + 1
    return outputs


@torch.inference_mode()
def run_reference_masks(decoder: MaskDecoder, outputs: ReferenceOutputs) -> None:
    """Decode a few masks, and store their codes as `mask.codes` and the masks as `mask.maps`.

    Together the masks use every code.
    """
    codes = torch.arange(CODES).reshape(-1, GRID * GRID)
    outputs.save("mask.codes", codes.numpy())
    outputs.save("mask.maps", decoder(codes).numpy())


def _save_cache(outputs: ReferenceOutputs, stage: str, cache: Cache, slots: Tensor | None = None) -> None:
    """Store keys and values of a cache: all slots if `slots` is None, else slot `slots[b]` of each row b."""
    rows = torch.arange(len(cache[0].key))
    for layer, entry in enumerate(cache):
        for kind, tensor in entry._asdict().items():
            stored = tensor if slots is None else tensor[rows, :, slots]  # [B, K, L, H] or [B, K, H]
            outputs.save(f"{stage}.{layer}.{kind}", stored.numpy())
