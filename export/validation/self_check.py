"""The check every export passes before it gets its name: a picture, two prompts, four steps."""

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
from .validate import Validation, first_failure, validate

PROMPTS = ("caption en", "answer en what is in the picture?")  # of different lengths: one row is padded
STEPS = 4
SEED = 0


def synthetic_image(side: int) -> NDArray[np.float32]:
    """Smooth colours with some noise, float32[3, S, S] in [-1, 1]: the same on every machine."""
    axis = np.linspace(-1, 1, side)
    smooth = np.stack(np.broadcast_arrays(axis[None, :], axis[:, None], axis[None, :] * axis[:, None]))
    noise = np.random.default_rng(SEED).uniform(-0.2, 0.2, (3, side, side))
    return np.clip(smooth + noise, -1, 1).astype(np.float32)


def torch_reference(source: Source) -> tuple[str, ReferenceModel]:
    """Our own model on the checkpoint's mapped weights."""
    return f"torch {torch.__version__}", load_model(source.config, source.checkpoint)


def validation_inputs_for(
    manifest: Manifest,
    tokenizer: PromptTokenizer,
    pixel_values: NDArray[np.float32],
    prompts: tuple[str, ...],
    steps: int,
) -> ValidationInputs:
    """Prompts as ids, with what the manifest says of ids."""
    room = manifest.model.context_length - len(pixel_values) * manifest.image.tokens - steps
    return ValidationInputs(
        pixel_values=pixel_values,
        prompts=tuple(tokenizer.encode(prompt, room) for prompt in prompts),
        steps=steps,
        pad=manifest.tokens.pad,
        suppressed=manifest.tokens.suppressed,
    )


def self_check(
    folder: Path, manifest: Manifest, source: Source, progress: Callable[[str], object]
) -> Validation:
    """Hold a fresh bundle against its checkpoint on the CPU.

    Raises:
        MismatchError: it computes something else.
    """
    tokenizer = PromptTokenizer.load(folder / manifest.tokens.file)
    picture = synthetic_image(manifest.image.size)[None]
    validation = validate(
        folder,
        manifest,
        source=source.weights(manifest.recipe.precision),
        constants=source.constants,
        reference=lambda: torch_reference(source),
        mask_decoder=source.mask_decoder,
        questions=validation_inputs_for(manifest, tokenizer, picture, PROMPTS, STEPS),
        placement=choose_placement("cpu", None),
        progress=progress,
        scratch=folder,  # on the disk that has room for the bundle, and removed before it gets its name
    )
    if not validation.passed:
        raise MismatchError(
            f"{source.folder}: the exported graphs differ from torch: {first_failure(validation)}"
        )
    return validation
