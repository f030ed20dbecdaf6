"""Check that every export must pass before its folder is published.

The check runs one image with two prompts and four decode steps.

Shapes: docs/notation.md.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from paligemma_onnx.model.checkpoint.load import load_model
from paligemma_onnx.runtime.bundle.schema import Manifest
from paligemma_onnx.runtime.engine.devices import choose_placement
from paligemma_onnx.runtime.errors import MismatchError
from paligemma_onnx.runtime.text.tokenizer import PromptTokenizer

from ..source import Source
from .reference_outputs import ReferenceModel, ValidationInputs
from .validate import Validation, describe_failure, validate

PROMPTS = (
    "caption en",
    "answer en what is in the image?",
)  # the prompts have different lengths, so that one row is padded
STEPS = 4
SEED = 0


def synthetic_image(side: int) -> NDArray[np.float32]:
    """Return an image of smooth colours with some noise: float32[3, S, S] in [-1, 1].

    The image is the same on every machine.
    """
    axis = np.linspace(-1, 1, side)
    smooth = np.stack(np.broadcast_arrays(axis[None, :], axis[:, None], axis[None, :] * axis[:, None]))
    noise = np.random.default_rng(SEED).uniform(-0.2, 0.2, (3, side, side))
    return np.clip(smooth + noise, -1, 1).astype(np.float32)


def torch_reference(source: Source) -> tuple[str, ReferenceModel]:
    """Return the name and an instance of the implementation in model/.

    The model computes with the checkpoint's memory-mapped weights.
    """
    return f"torch {torch.__version__}", load_model(source.config, source.checkpoint)


def build_validation_inputs(
    manifest: Manifest,
    tokenizer: PromptTokenizer,
    pixel_values: NDArray[np.float32],
    prompts: tuple[str, ...],
    steps: int,
) -> ValidationInputs:
    """Tokenize prompts and return the inputs of a validation.

    Args:
        manifest: the bundle's manifest, which contains the context length and the special ids.
        tokenizer: the bundle's tokenizer.
        pixel_values: the images, float32[M, 3, S, S].
        prompts: one prompt per row of the batch.
        steps: number of decode steps.
    """
    max_text_tokens = manifest.model.context_length - len(pixel_values) * manifest.image.tokens - steps
    return ValidationInputs(
        pixel_values=pixel_values,
        prompts=tuple(tokenizer.encode(prompt, max_text_tokens) for prompt in prompts),
        steps=steps,
        pad=manifest.tokens.pad,
        suppressed=manifest.tokens.suppressed,
    )


def self_check(
    folder: Path, manifest: Manifest, source: Source, progress: Callable[[str], object]
) -> Validation:
    """Compare a new bundle with its checkpoint on the CPU.

    Raises:
        MismatchError: the bundle does not compute what the checkpoint does.
    """
    pixel_values = synthetic_image(manifest.image.size)[None]
    # The tokenizer has no name here, so that its 0.07 GB are freed before the graphs run.
    inputs = build_validation_inputs(
        manifest, PromptTokenizer.load(folder / manifest.tokens.file), pixel_values, PROMPTS, STEPS
    )
    validation = validate(
        folder,
        manifest,
        source=source,
        load_reference=lambda: torch_reference(source),
        inputs=inputs,
        placement=choose_placement("cpu", None),
        progress=progress,
        # The reference's outputs are stored on the bundle's disk, which is known to have space. The outputs
        # are removed before the folder is published.
        scratch=folder,
    )
    if not validation.passed:
        raise MismatchError(
            f"{source.path}: the exported graphs do not compute what torch computes: "
            f"{describe_failure(validation)}"
        )
    return validation
