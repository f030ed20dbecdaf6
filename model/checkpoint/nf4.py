"""Rounding of weights to NF4, the data type of QLoRA (arXiv 2305.14314), as bitsandbytes rounds them.

A tensor is flattened and cut into blocks of 64 values. A block has one scale, its largest magnitude, and each
value is rounded to the nearest of 16 codes times the scale. Double quantisation rounds the scales to 8 bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 64  # values per scale; bitsandbytes' default, which transformers uses
SCALE_BLOCK = 256  # scales per scale of the second quantisation (arXiv 2305.14314, section 3)
PIECE = 1 << 22  # values that are rounded at once: a multiple of BLOCK; 16 MiB in float32
# Quantiles of the normal distribution (arXiv 2305.14314, appendix E).
CODES = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941),
    *(0.7229568362236023, 1.0),
)


def round_to_nf4(weight: Tensor, *, double: bool) -> Tensor:
    """Return the weight rounded to NF4, with the same shape and dtype.

    Args:
        weight: a weight in float32, bfloat16 or float16.
        double: whether the scales are quantised too.
    """
    pieces = weight.flatten().split(PIECE)
    scales = torch.cat([_blocks(piece).abs().amax(dim=1) for piece in pieces])
    stored_scales = (_round_scales(scales) if double else scales).split(PIECE // BLOCK)
    rounded = [
        (_nearest(_divide(_blocks(piece), exact[:, None]), torch.tensor(CODES)) * stored[:, None])
        .flatten()[: piece.numel()]
        .to(weight.dtype)
        for piece, exact, stored in zip(pieces, scales.split(PIECE // BLOCK), stored_scales, strict=True)
    ]
    return torch.cat(rounded).view(weight.shape)


def _blocks(values: Tensor) -> Tensor:
    """Return values in float32 as rows of BLOCK; zeros fill the last row."""
    return torch.nn.functional.pad(values.float(), (0, -values.numel() % BLOCK)).view(-1, BLOCK)


def _divide(values: Tensor, largest: Tensor) -> Tensor:
    """Divide as bitsandbytes does, by a product with the inverse. A block of zeros remains zero."""
    return torch.where(largest > 0, values * (1 / largest), 0.0)


def _round_scales(scales: Tensor) -> Tensor:
    """Return the scales, float32[blocks], rounded to 8 bits after their mean is subtracted."""
    mean = scales.mean()
    padded = torch.nn.functional.pad(scales - mean, (0, -len(scales) % SCALE_BLOCK)).view(-1, SCALE_BLOCK)
    # The padding of the last block is zero, which does not change its largest magnitude.
    largest = padded.abs().amax(dim=1, keepdim=True)
    return (_nearest(_divide(padded, largest), _dynamic_codes()) * largest).flatten()[: len(scales)] + mean


def _nearest(values: Tensor, codes: Tensor) -> Tensor:
    """Return the nearest code of each value; between two codes, the lower one."""
    return codes[torch.bucketize(values, (codes[1:] + codes[:-1]) / 2, out_int32=True)]


def _dynamic_codes() -> Tensor:
    """Return the 256 codes of dynamic 8-bit quantisation in ascending order (arXiv 2110.02861, section 2.1).

    A code has a sign, a decimal exponent from -6 to 0, and the centres of 1 to 64 equal parts of [0.1, 1].
    """
    magnitudes = []
    for exponent in range(7):
        borders = torch.linspace(0.1, 1, 2**exponent + 1)
        magnitudes.append((borders[1:] + borders[:-1]) / 2 * 10.0 ** (exponent - 6))
    positive = torch.cat(magnitudes)
    return torch.cat([-positive, positive, torch.tensor([0.0, 1.0])]).sort().values
