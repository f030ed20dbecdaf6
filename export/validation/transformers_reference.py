"""The PaliGemma model of transformers as a reference, with the methods of model/paligemma.py.

Each row is computed alone and without padding. A padded batch of the bundle is thus compared with unpadded
single requests.

Shapes: docs/notation.md.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from pathlib import Path

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad
from transformers.cache_utils import DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPooling

from paligemma_onnx.model.cache import Cache, KeyValue
from paligemma_onnx.model.checkpoint.errors import CheckpointError

# transformers 5.24 renamed the argument.
CACHE_ARGUMENT = (
    "cache"
    if "cache" in signature(transformers.PaliGemmaForConditionalGeneration.forward).parameters
    else "past_key_values"
)


def load_image_processor(folder: Path) -> Callable[[Image.Image], NDArray[np.float32]]:
    """Return a function from an RGB image to pixels [3, S, S] that calls the processor of a checkpoint.

    The function reads the files of the checkpoint and uses nothing of this project, so that a misread setting
    is found.

    Raises:
        CheckpointError: transformers cannot load the processor.
    """
    try:
        # The PIL backend computes as the reference does; the one of torchvision resizes with other rounding.
        processor = transformers.AutoProcessor.from_pretrained(folder, local_files_only=True, backend="pil")
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError) as error:
        raise _cannot_load(folder, "the processor of this checkpoint", error) from None

    def preprocess(image: Image.Image) -> NDArray[np.float32]:
        pixels: NDArray[np.float32] = processor.image_processor(images=[image]).pixel_values[0]
        return pixels

    return preprocess


class TransformersReference:
    """`PaliGemmaForConditionalGeneration` in float32 with eager attention.

    Args:
        folder: the folder of the checkpoint.

    Raises:
        CheckpointError: transformers cannot load the checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        transformers.utils.logging.disable_progress_bar()
        try:
            config = transformers.PaliGemmaConfig.from_pretrained(folder, local_files_only=True)
            for part in (config, config.text_config, config.vision_config):
                # Left over from quantised training; transformers would quantise the weights again.
                part.__dict__.pop("quantization_config", None)
            self._model = transformers.PaliGemmaForConditionalGeneration.from_pretrained(
                folder, config=config, dtype=torch.float32, attn_implementation="eager", local_files_only=True
            ).eval()
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise _cannot_load(folder, "this checkpoint", error) from None
        self.name = f"transformers {transformers.__version__}"

    def encode_image(self, pixel_values: Tensor) -> Tensor:
        """Encode images: float32[M, 3, S, S] -> float32[M, I, D]."""
        features: Tensor = self._model.get_image_features(pixel_values).pooler_output
        return features

    def prefill(
        self, input_ids: Tensor, image_features: Tensor, text_lengths: Tensor
    ) -> tuple[Tensor, Cache]:
        """Read prompts as `PaliGemma.prefill` does; the padding slots of the returned cache contain zeros."""
        placeholders = torch.full((image_features.shape[1],), self._model.config.image_token_id)
        rows = []
        for ids, features, length in zip(input_ids, image_features, text_lengths.tolist(), strict=True):
            row_ids = torch.cat([placeholders, ids[:length]])[None]
            # Zeros mark the prefix, in which attention is bidirectional. Without the zeros, attention would
            # be causal.
            prefix = torch.zeros_like(row_ids)
            images = {"image": BaseModelOutputWithPooling(pooler_output=features[None])}
            rows.append(
                self._call(row_ids, 0, DynamicCache(), token_type_ids=prefix, mm_encoder_outputs=images)
            )
        return _join(rows, image_features.shape[1] + input_ids.shape[1])

    def decode_step(self, input_ids: Tensor, past_lengths: Tensor, past: Cache) -> tuple[Tensor, Cache]:
        """Add tokens to each row as `PaliGemma.decode_step` does."""
        rows = []
        for row, length in enumerate(past_lengths.tolist()):
            cache = DynamicCache()
            for layer, (key, value) in enumerate(past):
                cache.update(key[row : row + 1, :, :length], value[row : row + 1, :, :length], layer)
            rows.append(self._call(input_ids[row : row + 1], length, cache, keep=input_ids.shape[1]))
        return _join(rows, past[0].key.shape[2] + input_ids.shape[1])

    def _call(
        self, input_ids: Tensor, first_position: int, cache: DynamicCache, keep: int = 1, **inputs: object
    ) -> tuple[Tensor, DynamicCache]:
        """Return the logits of the last `keep` tokens of one row, float32[keep, V], and the cache."""
        tokens = input_ids.shape[1]
        output = self._model(
            input_ids=input_ids,
            # transformers counts positions from 1 by default, which would rotate the keys differently.
            position_ids=torch.arange(first_position, first_position + tokens)[None],
            attention_mask=torch.ones(1, first_position + tokens, dtype=torch.long),
            use_cache=True,
            logits_to_keep=keep,
            **{CACHE_ARGUMENT: cache},
            **inputs,
        )
        return output.logits[0], cache


def _cannot_load(folder: Path, what: str, error: Exception) -> CheckpointError:
    reason = " ".join(str(error).split())[:300]
    return CheckpointError(f"{folder}: transformers cannot load {what}, use --reference torch: {reason}")


def _join(rows: list[tuple[Tensor, DynamicCache]], slots: int) -> tuple[Tensor, Cache]:
    """Join the logits and the caches of single rows to a batch.

    Zeros pad each cache on the right until it has `slots` slots.
    """

    def padded(layer: int, kind: str) -> Tensor:
        tensors = [getattr(cache.layers[layer], kind) for _, cache in rows]
        return torch.cat([pad(tensor, (0, 0, 0, slots - tensor.shape[2])) for tensor in tensors])

    layers = range(len(rows[0][1].layers))
    cache = tuple(KeyValue(padded(layer, "keys"), padded(layer, "values")) for layer in layers)
    return torch.cat([logits for logits, _ in rows]), cache
