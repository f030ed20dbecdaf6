"""Run lengths of a mask, as COCO stores and compresses them (pycocotools reads and writes the same).

A mask is read column by column, starting with a run of background, which may be empty. Compressed, a run
from the fourth on is written as its difference from the run two before it, which is of the same kind; then
each number goes into characters of 5 bits, lowest first, with a sixth bit that says whether more follow, 48
added (COCO API, `maskApi.h` and `rleToString` in `maskApi.c`).

Legend: H height, W width, R runs.
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

DIGIT = 5  # bits a character
MORE = 1 << DIGIT  # set in every character but a number's last
FIRST = 48  # "0", the character of zero
PLAIN = 3  # runs at the start that are written as they are


class RunLengths(TypedDict):
    """A mask in COCO's compressed form."""

    size: list[int]  # height, width
    counts: str  # ASCII


def encode(mask: NDArray[np.bool_]) -> RunLengths:
    """Compress a mask, bool[H, W]."""
    height, width = mask.shape
    return {"size": [height, width], "counts": compress(runs(mask))}


def runs(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Lengths of background and foreground in turn: bool[H, W] -> int64[R], R >= 1 where there is a pixel."""
    pixels = mask.ravel(order="F")
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    starts_inside = [0] if pixels.size and pixels[0] else []
    edges = np.concatenate([[0], starts_inside, changes, [pixels.size]])
    return np.diff(edges).astype(np.int64)


def compress(lengths: NDArray[np.int64]) -> str:
    """Write run lengths, int64[R], as characters."""
    written = lengths.copy()
    written[PLAIN:] -= lengths[PLAIN - 2 : -2]
    return "".join(map(_characters, written.tolist()))


def _characters(number: int) -> str:
    """A signed number, 5 bits a character; the last one's fifth bit is the sign."""
    written = []
    while True:
        digit, number = number & (MORE - 1), number >> DIGIT
        ends = number == (-1 if digit & MORE >> 1 else 0)
        written.append(chr(FIRST + (digit if ends else digit | MORE)))
        if ends:
            return "".join(written)
