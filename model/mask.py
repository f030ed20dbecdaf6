"""Who may look at whom: the prefix-LM mask (arXiv 1910.10683, section 3.2.1; arXiv 2407.07726, figure 2).

Image, BOS, prompt and newline form the prefix, whose tokens see each other in both directions. Generated
tokens see the whole prefix and the generated tokens before them. With 3 prefix and 3 generated tokens,
rows looking at columns:

        p p p g g g
    p   # # # . . .      computed by prefill: only its first three columns exist then,
    p   # # # . . .      so all that is masked there is the padding of shorter rows
    p   # # # . . .
    g   # # # # . .      computed one row at a time by decode_step: the later columns
    g   # # # # # .      do not exist yet, so nothing causal is left to mask
    g   # # # # # #

In Gemma 2's sliding layers a generated token sees only the last `window` slots, itself included. The
prefix stays bidirectional over its whole length there too, as in transformers.

Legend: B batch, S cache slots.
"""

from __future__ import annotations

import torch
from torch import Tensor


def prefix_mask(lengths: Tensor, slots: int) -> Tensor:
    """What the tokens of a prefix see: every slot before its row's length.

    Args:
        lengths: int64[B], real tokens of each row, image tokens included.
        slots: S, the length of the longest row.

    Returns:
        bool[B, 1, 1, S], the same for every head and query.
    """
    return _slots(slots, lengths) < lengths[:, None, None, None]


def step_mask(position: Tensor, slots: int, window: int | None) -> Tensor:
    """What one generated token sees: itself and the slots before it, as far back as the window reaches.

    Args:
        position: int64[B], the slot of the new token in each row.
        slots: S, the new token's included.
        window: tokens seen in a sliding layer, None in a global one.

    Returns:
        bool[B, 1, 1, S].
    """
    slot, position = _slots(slots, position), position[:, None, None, None]
    seen = slot <= position
    return seen if window is None else seen & (slot > position - window)


def _slots(slots: int, like: Tensor) -> Tensor:
    return torch.arange(slots, device=like.device)[None, None, None, :]
