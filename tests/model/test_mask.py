"""The prefix-LM mask against drawings made by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from paligemma_onnx.model.mask import prefix_mask, step_mask

PREFIX, GENERATED = 3, 3
SLOTS = PREFIX + GENERATED
GLOBAL = """
    # # # . . .
    # # # . . .
    # # # . . .
    # # # # . .
    # # # # # .
    # # # # # #
"""
WINDOW_OF_2 = """
    # # # . . .
    # # # . . .
    # # # . . .
    . . # # . .
    . . . # # .
    . . . . # #
"""


def parse_drawing(text: str) -> np.ndarray:
    return np.array([[mark == "#" for mark in line.split()] for line in text.split("\n") if line.strip()])


@pytest.mark.parametrize(("drawing", "window"), [(GLOBAL, None), (WINDOW_OF_2, 2), (GLOBAL, SLOTS)])
def test_prefix_both_ways_then_one_way(drawing: str, window: int | None) -> None:
    visible = np.zeros((SLOTS, SLOTS), dtype=bool)
    visible[:PREFIX, :PREFIX] = prefix_mask(torch.tensor([PREFIX]), PREFIX)[0, 0]
    for position in range(PREFIX, SLOTS):
        positions = torch.tensor([[position]])
        visible[position, : position + 1] = step_mask(positions, position + 1, window)[0, 0, 0]
    assert np.array_equal(visible, parse_drawing(drawing))


def test_rows_see_their_own_slots_only() -> None:
    """Rows of 2 and 4 tokens in 4 slots: slots from a row's length on are padding."""
    mask = prefix_mask(torch.tensor([2, 4]), 4)
    assert mask.shape == (2, 1, 1, 4)
    assert np.array_equal(mask[:, 0, 0], parse_drawing("# # . .\n# # # #"))


def test_a_step_sees_no_slot_behind_its_own() -> None:
    """Rows whose new token is in slot 1 and 3 of 4, without a window and with a window of 2."""
    positions = torch.tensor([[1], [3]])
    assert np.array_equal(step_mask(positions, 4, None)[:, 0, 0], parse_drawing("# # . .\n# # # #"))
    assert np.array_equal(step_mask(positions, 4, 2)[:, 0, 0], parse_drawing("# # . .\n. . # #"))


@pytest.mark.parametrize(("drawing", "window"), [(GLOBAL, None), (WINDOW_OF_2, 2), (GLOBAL, SLOTS)])
def test_new_tokens_of_one_step_see_each_other_one_way(drawing: str, window: int | None) -> None:
    """All generated tokens as one step: the rows of the drawing below those of the prefix."""
    mask = step_mask(torch.arange(PREFIX, SLOTS)[None], SLOTS, window)
    assert mask.shape == (1, 1, GENERATED, SLOTS)
    assert np.array_equal(mask[0, 0], parse_drawing(drawing)[PREFIX:])
