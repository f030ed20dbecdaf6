"""Random prompts for the models of checkpoints.py, and the ids that transformers generates for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from checkpoints import CASES, IMAGE_TOKEN, make_model
from numpy.typing import NDArray


def random_prompts(images: int, image_tokens: int, lengths: tuple[int, ...]) -> tuple[NDArray[Any], ...]:
    """Return random prompts int64[B, L], padded on the left, and their mask."""
    random, longest = np.random.default_rng(5), max(lengths)
    ids = np.full((len(lengths), images * image_tokens + longest), IMAGE_TOKEN)
    mask = np.ones_like(ids)
    for row, length in enumerate(lengths):
        ids[row, -length:] = random.integers(4, 600, length)
        mask[row, : longest - length] = ids[row, : longest - length] = 0
    return ids, mask


def random_pixels(name: str, images: int) -> NDArray[np.float32]:
    """Return pixel values float32[M, 3, S, S] for the model of a case."""
    side = CASES[name].image_size
    return np.random.default_rng(3).uniform(-1, 1, (images, 3, side, side)).astype(np.float32)


def reference_ids(
    name: str, ids: NDArray[Any], mask: NDArray[Any], pixels: NDArray[np.float32], steps: int
) -> list[list[int]]:
    """Return the greedy ids of the model of a case, which never are the stop id or the image token."""
    case = CASES[name]
    model = make_model(case).to(case.dtype).float()  # as the checkpoint stores it
    with torch.no_grad():
        generated = model.generate(
            input_ids=torch.from_numpy(ids),
            attention_mask=torch.from_numpy(mask),
            token_type_ids=torch.zeros(ids.shape, dtype=torch.int64),  # 0 marks the prefix
            pixel_values=torch.from_numpy(pixels),
            max_new_tokens=steps,
            min_new_tokens=steps,
            do_sample=False,
            eos_token_id=None,
            suppress_tokens=[IMAGE_TOKEN],
        )
    rows: list[list[int]] = generated[:, ids.shape[1] :].tolist()
    return rows
