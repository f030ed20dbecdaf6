"""Run a torch model with the runtime's decode loop, so that the model answers requests as a bundle does.

Shapes: docs/notation.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from paligemma_onnx.model.cache import KeyValue
from paligemma_onnx.model.checkpoint.load import load_model
from paligemma_onnx.model.mask_decoder import MaskDecoder
from paligemma_onnx.runtime.bundle.schema import Manifest
from paligemma_onnx.runtime.cancellation import Cancellation
from paligemma_onnx.runtime.engine.device_tensor import DeviceTensor
from paligemma_onnx.runtime.engine.devices import Placement, choose_placement
from paligemma_onnx.runtime.errors import BundleError
from paligemma_onnx.runtime.graphs.kv_cache import Cache
from paligemma_onnx.runtime.graphs.model_runner import Array, Ids, ImageFeatures, concatenate_images
from paligemma_onnx.runtime.graphs.onnx_runner import NO_MASK_DECODER
from paligemma_onnx.runtime.paligemma import PaliGemma
from paligemma_onnx.runtime.text.tokenizer import PromptTokenizer

from ..bundle.draft_manifest import draft_manifest
from ..source import open_source
from .reference_outputs import ReferenceModel


@dataclass(frozen=True)
class TorchModelRunner:
    """`ModelRunner` that calls a torch model; runtime/graphs/model_runner.py describes the methods."""

    reference: ReferenceModel
    manifest: Manifest
    placement: Placement
    mask_decoder: MaskDecoder | None

    @torch.inference_mode()
    def encode_image(self, pixel_values: Array, cancel: Cancellation) -> Array:
        """Encode images one at a time: float32[M, 3, S, S] -> float32[M, I, D]."""
        features = []
        for pixels in torch.from_numpy(pixel_values)[:, None]:
            cancel.check()
            features.append(self.reference.encode_image(pixels))
        return torch.cat(features).numpy()

    def gather_image_features(self, features: ImageFeatures, images: Ids, cancel: Cancellation) -> Array:
        """Concatenate each row's images: float32[M, I, D], int64[B, N / I] -> float32[B, N, D]."""
        cancel.check()
        return concatenate_images(features, images)

    @torch.inference_mode()
    def prefill(
        self,
        input_ids: Ids,
        image_features: ImageFeatures,
        text_lengths: Ids,
        slots: int,  # noqa: ARG002
        cancel: Cancellation,
    ) -> tuple[Array, Cache]:
        """Read the prompts of a batch; `slots` is not used, because a torch cache grows with each step."""
        cancel.check()
        logits, cache = self.reference.prefill(
            torch.from_numpy(input_ids),
            torch.from_numpy(np.asarray(image_features)),
            torch.from_numpy(text_lengths),
        )
        return logits.numpy(), Cache(self._to_values(cache), image_features.shape[1] + text_lengths)

    @torch.inference_mode()
    def decode(self, input_ids: Ids, cache: Cache, cancel: Cancellation) -> tuple[Array, Cache]:
        """Add tokens to each row: int64[B, T] -> logits float32[B * T, V], and the cache with the tokens."""
        cancel.check()
        past = [torch.from_numpy(value.to_numpy_view()) for value in cache.values]
        logits, grown = self.reference.decode_step(
            torch.from_numpy(input_ids),
            torch.from_numpy(cache.lengths),
            tuple(map(KeyValue, past[::2], past[1::2])),
        )
        return logits.numpy(), cache.advance(self._to_values(grown), input_ids.shape[1])

    def _to_values(self, cache: Iterable[KeyValue]) -> tuple[DeviceTensor, ...]:
        """Return the tensors of a torch cache, float32[B, K, P, H], as device tensors of the runtime."""
        return tuple(
            DeviceTensor.from_numpy(tensor.numpy(), "float32", self.placement, "a cache")
            for layer in cache
            for tensor in layer
        )

    def release(self, cache: Cache, *, reusable: bool) -> None:
        """Do nothing, because Python frees the cache when its last reference is gone."""

    @torch.inference_mode()
    def decode_masks(self, codes: Ids, cancel: Cancellation) -> Array:
        """Decode masks: int64[masks, 16] -> float32[masks, 64, 64].

        Raises:
            BundleError: the checkpoint has no mask decoder.
        """
        cancel.check()
        if self.mask_decoder is None:
            raise BundleError(NO_MASK_DECODER)
        masks: Array = self.mask_decoder(torch.from_numpy(codes)).numpy()
        return masks


def open_torch_model(folder: Path, reference: ReferenceModel | None = None) -> PaliGemma:
    """Return a model that has the runtime's Python interface and computes with torch in float32.

    Args:
        folder: the folder of the checkpoint.
        reference: the implementation that computes; None uses the implementation in model/.

    Raises:
        CheckpointError: the checkpoint is incomplete, damaged, or belongs to another model.
    """
    source = open_source(folder)
    manifest = draft_manifest(source, "fp32")
    model = reference or load_model(source.config, source.checkpoint)
    runner = TorchModelRunner(model, manifest, choose_placement("cpu", None), source.mask_decoder)
    return PaliGemma(manifest, PromptTokenizer.load(source.tokenizer), runner, 0.0)
