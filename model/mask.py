"""The prefix-LM attention mask (arXiv 1910.10683, section 3.2.1; arXiv 2407.07726, figure 2).

Image, BOS, prompt and newline form the prefix. The tokens of the prefix see each other in both directions. A
generated token sees the whole prefix, the earlier generated tokens, and itself. The mask of 3 prefix tokens
(p) and 3 generated tokens (g), with a row per query and a column per key:

        p p p g g g
    p   # # # . . .      prefill computes these rows at once. At that time only the first three columns
    p   # # # . . .      exist, so the mask of prefill hides only the padding of shorter sequences.
    p   # # # . . .
    g   # # # # . .      A call of decode_step computes one or several of these rows. Columns of tokens that
    g   # # # # # .      no call has appended do not exist yet.
    g   # # # # # #

In Gemma 2's sliding layers a generated token sees only the last `window` slots, including its own slot. In
these layers, too, the prefix is bidirectional over its whole length, as in transformers.

Shapes: docs/notation.md. A slot is a position in the cache.
"""

from __future__ import annotations

import torch
from torch import Tensor


def prefix_mask(lengths: Tensor, slots: int) -> Tensor:
    """Return a mask of the slots that the tokens of a prefix see: the first `lengths[b]` slots in row b.

    Args:
        lengths: int64[B], number of tokens of each row, including image tokens but not padding.
        slots: L, the length of the longest row.

    Returns:
        bool[B, 1, 1, L], true for the slots that are seen; the same for every head and query.
    """
    return _slot_indices(slots, lengths) < lengths[:, None, None, None]


def step_mask(positions: Tensor, slots: int, window: int | None) -> Tensor:
    """Return a mask of the slots that generated tokens see: the own slot and earlier slots in the window.

    Args:
        positions: int64[B, queries], the slot of the token of each query.
        slots: P + T, the number of slots of the cache, including the slots of the new tokens.
        window: number of slots that a sliding layer sees, or None for a global layer.

    Returns:
        bool[B, 1, queries, P + T], true for the slots that are seen.
    """
    slot, positions = _slot_indices(slots, positions), positions[:, None, :, None]
    visible = slot <= positions
    return visible if window is None else visible & (slot > positions - window)


def _slot_indices(slots: int, like: Tensor) -> Tensor:
    """Return the numbers 0 to slots - 1 as int64[1, 1, 1, slots] on the device of `like`."""
    return torch.arange(slots, device=like.device)[None, None, None, :]
