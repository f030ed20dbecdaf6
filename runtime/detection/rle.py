"""Run lengths of a mask in COCO's compressed form, which pycocotools reads and writes.

A mask is read column by column, starting with a run of background, which may be empty. In the compressed
form, the first three runs are written as lengths. Each later run is written as the difference from the length
of the previous run of the same kind (background or foreground), two places before. Each number is then split
into groups of 5 bits, lowest bits first. A sixth bit of a group is set if more groups of the number follow,
and 48 is added to make each group a printable character (COCO API: `maskApi.h`; `rleToString` in
`maskApi.c`).
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

BITS = 5  # per character
CONTINUES = 1 << BITS  # set in every character of a number but the last
FIRST_CHARACTER = 48  # "0", the character of zero
ABSOLUTE_RUNS = 3  # runs at the start that are not written as differences


class RunLengths(TypedDict):
    """A mask in COCO's compressed form: `size` is [height, width], `counts` is ASCII."""

    size: list[int]
    counts: str


def encode(mask: NDArray[np.bool_]) -> RunLengths:
    """Return the compressed form of a mask, bool[height, width]."""
    height, width = mask.shape
    return {"size": [height, width], "counts": compress(runs(mask))}


def runs(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the lengths of a mask's alternating background and foreground runs, int64[runs].

    The mask is bool[height, width].
    """
    pixels = mask.ravel(order="F")
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    starts_inside = [0] if pixels.size and pixels[0] else []
    edges = np.concatenate([[0], starts_inside, changes, [pixels.size]])
    return np.diff(edges).astype(np.int64)


def compress(lengths: NDArray[np.int64]) -> str:
    """Return run lengths, int64[runs], as text in COCO's compressed form."""
    numbers = lengths.copy()
    numbers[ABSOLUTE_RUNS:] -= lengths[ABSOLUTE_RUNS - 2 : -2]
    return "".join(map(_characters, numbers.tolist()))


def _characters(number: int) -> str:
    """Return the characters of a signed number. Bit 4 of the last character is the sign."""
    characters = []
    while True:
        group, number = number & (CONTINUES - 1), number >> BITS
        is_last = number == (-1 if group & CONTINUES >> 1 else 0)
        characters.append(chr(FIRST_CHARACTER + (group if is_last else group | CONTINUES)))
        if is_last:
            return "".join(characters)
