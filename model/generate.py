"""The simplest form of greedy generation: encode_image, prefill, and a loop over decode_step.

Shapes: docs/notation.md.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from .paligemma import PaliGemma


@torch.inference_mode()
def generate(
    model: PaliGemma,
    pixel_values: Tensor,
    input_ids: Tensor,
    *,
    max_new_tokens: int,
    stop_ids: Collection[int] = (),
    suppressed_ids: Collection[int] = (),
) -> list[int]:
    """Return the token ids that continue a prompt about one or several images.

    Args:
        model: the model.
        pixel_values: float[M, 3, S, S], the images in reading order.
        input_ids: int64[T], the ids of BOS, prompt and newline.
        max_new_tokens: the maximum number of ids to return.
        stop_ids: ids that end the text; they are not returned.
        suppressed_ids: ids that are never chosen.

    Returns:
        The generated ids.
    """
    features = model.encode_image(pixel_values).flatten(0, 1)[None]  # [1, N, D] with N = M * I
    text_length = torch.tensor([len(input_ids)])
    logits, cache = model.prefill(input_ids[None], features, text_length)
    lengths = text_length + features.shape[1]
    generated: list[int] = []
    while len(generated) < max_new_tokens:
        logits[:, list(suppressed_ids)] = -torch.inf
        token = int(logits.argmax())
        if token in stop_ids:
            break
        generated.append(token)
        logits, cache = model.decode_step(torch.tensor([[token]]), lengths, cache)
        lengths = lengths + 1
    return generated
