"""Conversion of a processor's tensors to the inputs of the graphs.

transformers pads rows on either side and puts one `<image>` id per image token before the text. The graphs
take right-padded text without these ids, and the images of each row.

Shapes: docs/notation.md.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from paligemma_onnx.runtime.bundle.schema import Manifest
from paligemma_onnx.runtime.errors import ImageError, PromptError

PROCESSOR_ADVICE = "use the processor of the checkpoint, or `model.processor`"
PREFIX_TYPE = 0  # token type of a prompt; 1 marks the suffix of a training example
IGNORED_LABEL = -100  # a position without a target, as in PyTorch's cross-entropy


@dataclass(frozen=True)
class PromptRows:
    """Checked prompts of a batch and their images."""

    input_ids: NDArray[np.int64]  # [B, T], text only, padded on the right
    text_lengths: NDArray[np.int64]  # [B]
    pixel_values: NDArray[np.float32]  # [M, 3, S, S], without duplicates
    images: NDArray[np.int64]  # [B, N / I], indices into `pixel_values`, in reading order
    padding: NDArray[np.int64]  # [B], number of padding ids in each row of the caller's tensor


def read_prompt_rows(
    manifest: Manifest,
    input_ids: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
    pixel_values: torch.Tensor | None,
) -> PromptRows:
    """Return the checked rows of a batch.

    Args:
        manifest: facts of the bundle.
        input_ids: int64[B, L], padded on the left or on the right. A row consists of I `<image>` ids per
            image, `<bos>`, the prompt and a newline.
        attention_mask: int64[B, L], 0 for padding; None: no padding.
        pixel_values: float[images of all rows, 3, S, S], in the order of the rows.

    Raises:
        PromptError: `input_ids` or `attention_mask` is missing, malformed or for another bundle.
        ImageError: `pixel_values` is missing, malformed or for another bundle.
    """
    if input_ids is None or input_ids.dim() != 2 or torch.is_floating_point(input_ids):
        raise PromptError(f"input_ids is {_describe(input_ids)}, expected ids of shape [rows, length]")
    ids = input_ids.detach().cpu().numpy().astype(np.int64)
    if attention_mask is not None and attention_mask.shape != input_ids.shape:
        raise PromptError(f"attention_mask is {_describe(attention_mask)}, expected the shape of input_ids")
    used = np.ones(ids.shape, bool) if attention_mask is None else attention_mask.detach().cpu().numpy() != 0
    vocab_size = manifest.model.vocab_size
    if not ids.size or ids.min() < 0 or ids.max() >= vocab_size:
        raise PromptError(
            f"input_ids is empty or has an id outside 0 to {vocab_size - 1}; {PROCESSOR_ADVICE}"
        )
    texts, image_counts = [], []
    for row, (row_ids, row_used) in enumerate(zip(ids, used, strict=True)):
        text, image_count = _split(row_ids[row_used], manifest, row)
        texts.append(text)
        image_counts.append(image_count)
    if len(set(image_counts)) > 1:
        raise PromptError(
            f"the rows of input_ids have different numbers of images: {', '.join(map(str, image_counts))}; "
            "make one call per number of images"
        )
    pixels, images = _distinct_images(_check_pixels(pixel_values, sum(image_counts), manifest))
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    padded = np.full((len(texts), lengths.max()), manifest.tokens.pad, dtype=np.int64)
    for row, text in enumerate(texts):
        padded[row, : len(text)] = text
    return PromptRows(padded, lengths, pixels, images.reshape(len(texts), -1), (~used).sum(axis=1))


def refuse_training_inputs(token_type_ids: torch.Tensor | None, labels: torch.Tensor | None) -> None:
    """Raise PromptError if the inputs are a training example: a prompt with a suffix, or targets.

    Without a suffix, PaliGemmaProcessor returns token types that are all 0 and labels that are all -100.
    """
    if token_type_ids is not None and bool((token_type_ids != PREFIX_TYPE).any()):
        raise PromptError(
            "token_type_ids marks a suffix; the graphs answer prompts, call the processor without it"
        )
    if labels is not None and bool((labels != IGNORED_LABEL).any()):
        raise PromptError(
            "labels has targets; the graphs compute no loss, use the PyTorch model for training"
        )


def _split(ids: NDArray[np.int64], manifest: Manifest, row: int) -> tuple[NDArray[np.int64], int]:
    """Return the text ids of a row without padding, and its number of images."""
    is_image, per_image = ids == manifest.tokens.image, manifest.image.tokens
    image_tokens = int(is_image.sum())
    if image_tokens == 0 or image_tokens % per_image:
        raise PromptError(
            f"row {row} of input_ids has {image_tokens} <image> ids, the bundle needs {per_image} per image; "
            f"{PROCESSOR_ADVICE}"
        )
    if not is_image[:image_tokens].all():
        raise PromptError(f"row {row} of input_ids has text before <image> ids; {PROCESSOR_ADVICE}")
    if len(ids) == image_tokens:
        raise PromptError(f"row {row} of input_ids has no text, not even <bos>; {PROCESSOR_ADVICE}")
    if len(ids) >= manifest.model.context_length:
        raise PromptError(
            f"row {row} of input_ids has {len(ids)} tokens, the context has {manifest.model.context_length} "
            "and needs at least one for the answer; shorten the prompt"
        )
    return ids[image_tokens:], image_tokens // per_image


def _check_pixels(pixels: torch.Tensor | None, count: int, manifest: Manifest) -> NDArray[np.float32]:
    expected = (count, 3, manifest.image.size, manifest.image.size)
    if pixels is None or tuple(pixels.shape) != expected or not torch.is_floating_point(pixels):
        raise ImageError(
            f"pixel_values is {_describe(pixels)}, the bundle and the <image> ids of input_ids need floats "
            f"of shape {list(expected)}; {PROCESSOR_ADVICE}"
        )
    return pixels.detach().to("cpu", torch.float32).contiguous().numpy()


def _distinct_images(pixels: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the images without duplicates, and for each image the index of its equal.

    `num_return_sequences` repeats images, and hashing takes far less time than the vision encoder.
    """
    digests = [hashlib.sha256(image.data).digest() for image in pixels]
    places = {digest: place for place, digest in enumerate(dict.fromkeys(digests))}
    firsts = [digests.index(digest) for digest in places]
    return pixels[firsts], np.array([places[digest] for digest in digests], dtype=np.int64)


def _describe(tensor: object) -> str:
    if tensor is None:
        return "missing"
    if not isinstance(tensor, torch.Tensor):
        return f"of type {type(tensor).__name__}"
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
