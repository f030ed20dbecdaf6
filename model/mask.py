"""The prefix-LM attention mask (arXiv 1910.10683, section 3.2.1; arXiv 2407.07726, figure 2).

Image, BOS, prompt and newline form the prefix, whose tokens see each other in both directions. A generated
token sees the whole prefix, the generated tokens before it, and itself. With 3 prefix tokens (p) and 3
generated tokens (g), rows being queries and columns being keys:

        p p p g g g
    p   # # # . . .      prefill computes these rows at once. Only the first three columns exist then, so
    p   # # # . . .      its mask hides nothing but the padding of shorter sequences.
    p   # # # . . .
    g   # # # # . .      decode_step computes one of these rows at a time. The columns to the right do not
    g   # # # # # .      exist yet, so a causal mask is not needed.
    g   # # # # # #

In Gemma 2's sliding layers a generated token sees only the last `window` slots, including its own. The prefix
stays bidirectional over its whole length there too, as in transformers.

Shapes: docs/notation.md. A slot is a position in the cache.
"""

from __future__ import annotations

import torch
from torch import Tensor


def prefix_mask(lengths: Tensor, slots: int) -> Tensor:
    """Return the slots that the tokens of a prefix see: all slots within their row's length.

    Args:
        lengths: int64[B], tokens of each row without padding, image tokens included.
        slots: L, the length of the longest row.

    Returns:
        bool[B, 1, 1, L], the same for every head and query.
    """
    return _slot_indices(slots, lengths) < lengths[:, None, None, None]


def step_mask(position: Tensor, slots: int, window: int | None) -> Tensor:
    """Return the slots that one generated token sees: its own and those before it, within the window.

    Args:
        position: int64[B], the slot of the new token in each row.
        slots: P + 1, the slots of the cache, including that of the new token.
        window: slots that a sliding layer sees, or None for a global layer.

    Returns:
        bool[B, 1, 1, P + 1].
    """
    slot, position = _slot_indices(slots, position), position[:, None, None, None]
    visible = slot <= position
    return visible if window is None else visible & (slot > position - window)


def _slot_indices(slots: int, like: Tensor) -> Tensor:
    """Return int64[1, 1, 1, slots] on the device of `like`."""
    return torch.arange(slots, device=like.device)[None, None, None, :]
